"""How well embeddings retrieve and cluster: scores over a whole data set, and the search behind them."""

from . import clusterings as clusterings
from . import quantized_search as quantized_search
from . import retrieval as retrieval
from . import search as search
from .clusterings import mutual_information as mutual_information
from .quantized_search import product_code as product_code
from .quantized_search import quantized_neighbors as quantized_neighbors
from .retrieval import nearest_positive_ranks as nearest_positive_ranks
from .retrieval import recall_at_k as recall_at_k
from .retrieval import retrieval_scores as retrieval_scores
from .search import neighbors as neighbors
