"""Estimators of mutual information, behind one interface. They know tensors only."""

from tl_emergence.estimators.deranged import DerangedEstimator, derangement
from tl_emergence.estimators.exact import ExactEstimator, entropy_bits, miller_madow_bits
from tl_emergence.estimators.gaussian import GaussianEstimator
from tl_emergence.estimators.interface import ChainEstimate, Direction, Estimate, Estimator, StateChain
from tl_emergence.estimators.mine_paper import MinePaperEstimator, published_seconds
from tl_emergence.estimators.mutual_information import mutual_information
from tl_emergence.estimators.nce import NceEstimator
from tl_emergence.estimators.noise import NoiseEstimator
from tl_emergence.estimators.registry import ESTIMATORS, get_estimator, option_defaults, takes_noise
from tl_emergence.estimators.usable_information import usable_information
from tl_emergence.estimators.vinfo import VinfoEstimator

__all__ = [
    "ESTIMATORS",
    "ChainEstimate",
    "DerangedEstimator",
    "Direction",
    "Estimate",
    "Estimator",
    "ExactEstimator",
    "GaussianEstimator",
    "MinePaperEstimator",
    "NceEstimator",
    "NoiseEstimator",
    "StateChain",
    "VinfoEstimator",
    "derangement",
    "entropy_bits",
    "get_estimator",
    "miller_madow_bits",
    "mutual_information",
    "option_defaults",
    "published_seconds",
    "takes_noise",
    "usable_information",
]
