"""How domains share the batch: weights `[K]` over K domains, changed while training or fitted before it.

- Proportions that stay: `temperature_mixture`, `unimax_mixture`, `blend_from_epochs`, `length_mixture`.
- Functions of the step: `two_phase`, `two_phase_mixture`, `mixture_schedule`, `annealed_mixture`.
- Rules that learn while training: `mix_by_odm`, and for proxies `mix_by_doremi`, `mix_by_doge`, `mix_by_skills`.
- Fits to small runs: `sample_mixtures`, `fit_mixing_law`, `fit_bimix`, `fit_regression`, then `best_mixture`.
- A search, run after run: `suggest_mixture`, `recommend_mixture`.

`sampling.mixture` draws rows by the first three kinds. The guide is docs/mixing.md.
"""

from . import acquisitions as acquisitions
from . import ambient as ambient
from . import bayesian_search as bayesian_search
from . import best_mixtures as best_mixtures
from . import bimix as bimix
from . import budgets as budgets
from . import decisions as decisions
from . import doge as doge
from . import domains as domains
from . import doremi as doremi
from . import entropies as entropies
from . import gaussian_process as gaussian_process
from . import loss_laws as loss_laws
from . import merging as merging
from . import mixing_laws as mixing_laws
from . import online_mixing as online_mixing
from . import phases as phases
from . import regmix as regmix
from . import scheduled as scheduled
from . import size_laws as size_laws
from . import skill_it as skill_it
from . import static_mixtures as static_mixtures
from .ambient import ambient_inputs as ambient_inputs
from .ambient import ambient_noise_levels as ambient_noise_levels
from .ambient import ambient_predictions as ambient_predictions
from .ambient import ambient_targets as ambient_targets
from .ambient import ambient_weights as ambient_weights
from .ambient import reweigh_by_noise_level as reweigh_by_noise_level
from .bayesian_search import recommend_mixture as recommend_mixture
from .bayesian_search import suggest_mixture as suggest_mixture
from .best_mixtures import best_mixture as best_mixture
from .best_mixtures import project_capped_simplex as project_capped_simplex
from .bimix import bimix_mixture as bimix_mixture
from .bimix import fit_bimix as fit_bimix
from .bimix import predict_bimix as predict_bimix
from .budgets import Blend as Blend
from .budgets import Budget as Budget
from .budgets import blend_from_epochs as blend_from_epochs
from .budgets import downsample_for_horizon as downsample_for_horizon
from .budgets import epochs_of as epochs_of
from .budgets import length_mixture as length_mixture
from .budgets import schedule_budget as schedule_budget
from .decisions import choice_scores as choice_scores
from .decisions import compute_fraction as compute_fraction
from .decisions import decision_accuracy as decision_accuracy
from .decisions import decision_accuracy_draws as decision_accuracy_draws
from .decisions import pair_decisions as pair_decisions
from .doge import DogeState as DogeState
from .doge import domain_alignments as domain_alignments
from .doge import mix_by_doge as mix_by_doge
from .domains import domain_to_example_weights as domain_to_example_weights
from .domains import losses_by_domain as losses_by_domain
from .doremi import DoremiState as DoremiState
from .doremi import excess_losses as excess_losses
from .doremi import mix_by_doremi as mix_by_doremi
from .entropies import conditional_entropy as conditional_entropy
from .entropies import entropy_mixture as entropy_mixture
from .entropies import joint_entropy as joint_entropy
from .entropies import shannon_entropy as shannon_entropy
from .entropies import von_neumann_entropy as von_neumann_entropy
from .gaussian_process import fit_gaussian_process as fit_gaussian_process
from .loss_laws import fit_accuracy_curve as fit_accuracy_curve
from .loss_laws import fit_loss_law as fit_loss_law
from .loss_laws import predict_accuracy as predict_accuracy
from .loss_laws import predict_loss as predict_loss
from .merging import merge_parameters as merge_parameters
from .mixing_laws import fit_mixing_law as fit_mixing_law
from .mixing_laws import predict_losses as predict_losses
from .online_mixing import OdmState as OdmState
from .online_mixing import exploration_rate as exploration_rate
from .online_mixing import mix_by_odm as mix_by_odm
from .phases import TwoPhases as TwoPhases
from .phases import annealed_mixture as annealed_mixture
from .phases import mixture_schedule as mixture_schedule
from .phases import two_phase as two_phase
from .phases import two_phase_mixture as two_phase_mixture
from .regmix import average_of_top as average_of_top
from .regmix import fit_regression as fit_regression
from .regmix import predict_regression as predict_regression
from .regmix import sample_mixtures as sample_mixtures
from .scheduled import ScheduleState as ScheduleState
from .scheduled import mix_by_schedule as mix_by_schedule
from .size_laws import fit_size_law as fit_size_law
from .size_laws import predict_at_size as predict_at_size
from .skill_it import SkillsState as SkillsState
from .skill_it import mix_by_skills as mix_by_skills
from .skill_it import skill_mixture as skill_mixture
from .static_mixtures import UnimaxMixture as UnimaxMixture
from .static_mixtures import mix_by_temperature as mix_by_temperature
from .static_mixtures import temperature_mixture as temperature_mixture
from .static_mixtures import unimax_mixture as unimax_mixture
