"""How well embeddings retrieve and cluster, and how well numbers order others: scores over a whole data set."""

from . import clusterings as clusterings
from . import ranks as ranks
from . import retrieval as retrieval
from . import search as search
from .clusterings import mutual_information as mutual_information
from .ranks import rank_correlations as rank_correlations
from .retrieval import nearest_positive_ranks as nearest_positive_ranks
from .retrieval import recall_at_k as recall_at_k
from .retrieval import retrieval_scores as retrieval_scores
from .search import neighbors as neighbors
