"""How well embeddings retrieve and cluster: scores over a whole data set, and the search behind them."""

from . import clusterings as clusterings
from . import retrieval as retrieval
from . import search as search
from .clusterings import mutual_information as mutual_information
from .retrieval import nearest_positive_ranks as nearest_positive_ranks
from .retrieval import recall_at_k as recall_at_k
from .retrieval import retrieval_scores as retrieval_scores
from .search import neighbors as neighbors
