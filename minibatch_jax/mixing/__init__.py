"""How domains share the batch: weights `[K]` over K domains, changed while training or fitted before it."""

from . import doge as doge
from . import domains as domains
from . import doremi as doremi
from . import online_mixing as online_mixing
from . import skill_it as skill_it
from . import static_mixtures as static_mixtures
from .doge import DogeState as DogeState
from .doge import domain_alignments as domain_alignments
from .doge import mix_by_doge as mix_by_doge
from .domains import domain_to_example_weights as domain_to_example_weights
from .domains import losses_by_domain as losses_by_domain
from .doremi import DoremiState as DoremiState
from .doremi import excess_losses as excess_losses
from .doremi import mix_by_doremi as mix_by_doremi
from .online_mixing import OdmState as OdmState
from .online_mixing import exploration_rate as exploration_rate
from .online_mixing import mix_by_odm as mix_by_odm
from .skill_it import SkillsState as SkillsState
from .skill_it import mix_by_skills as mix_by_skills
from .skill_it import skill_mixture as skill_mixture
from .static_mixtures import UnimaxMixture as UnimaxMixture
from .static_mixtures import mix_by_temperature as mix_by_temperature
from .static_mixtures import temperature_mixture as temperature_mixture
from .static_mixtures import unimax_mixture as unimax_mixture
