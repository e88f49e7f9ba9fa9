"""How well embeddings retrieve and cluster, the search behind it, and how far rankings and transcripts differ."""

from . import clusterings as clusterings
from . import quantized_search as quantized_search
from . import ranks as ranks
from . import retrieval as retrieval
from . import search as search
from . import transcripts as transcripts
from .clusterings import mutual_information as mutual_information
from .quantized_search import product_code as product_code
from .quantized_search import quantized_neighbors as quantized_neighbors
from .ranks import rank_correlations as rank_correlations
from .retrieval import nearest_positive_ranks as nearest_positive_ranks
from .retrieval import recall_at_k as recall_at_k
from .retrieval import retrieval_scores as retrieval_scores
from .search import neighbors as neighbors
from .transcripts import edit_distances as edit_distances
from .transcripts import error_rates as error_rates
