"""The network that a search asks: which moves look good, and who is likely to win."""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mbrl_helpers.boards.rules import GAMES, Rules
from mbrl_helpers.checks import check_sizes
from mbrl_helpers.saving import Saved


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Settings of the network.

    Attributes:
        hidden_sizes: widths of its layers.
        lines: whether it is shown, beside the stones, how lines stand at each empty cell.
    """

    hidden_sizes: tuple[int, ...] = (256, 256)
    lines: bool = True

    def __post_init__(self) -> None:
        """Refuse settings that can't be meant."""
        check_sizes(self, "hidden_sizes")


DEFAULT = NetworkConfig()


class BoardNetwork(nn.Module, Saved):
    """Priors of the moves, and the expected result, of boards: what `search` evaluates with.

    Attributes:
        rules: of the boards that it knows.
        config: its settings.
    """

    kind: ClassVar[str] = "board network"

    def __init__(
        self, rules: Rules, generator: torch.Generator, config: NetworkConfig = DEFAULT,
    ):  # fmt: skip
        super().__init__()
        self.rules, self.config = rules, config
        num_features = rules.num_cells * (8 if config.lines else 2)
        sizes = [num_features, *config.hidden_sizes, rules.num_actions + 1]
        self.weights = nn.ParameterList(torch.empty(o, i) for i, o in pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(o) for o in sizes[1:])
        for weight in self.weights:
            bound = (6 / weight.shape[1]) ** 0.5 * (0.1 if weight is self.weights[-1] else 1)
            nn.init.uniform_(weight, -bound, bound, generator=generator)

    def features(self, boards: Tensor) -> Tensor:
        """What the first layer sees [B, F]."""
        if not self.config.lines:
            return boards.flatten(1)
        return torch.cat([boards, self.rules.line_planes(boards)], dim=1).flatten(1)

    def forward(self, boards: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the moves [B, A], and values [B] between -1 and 1, of boards [B, 2, C]."""
        x = self.features(boards)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = linear(x.relu() if i else x, weight, bias)
        return x[:, :-1], x[:, -1].tanh()

    @torch.inference_mode()
    def evaluate(self, boards: Tensor, legal: Tensor) -> tuple[Tensor, Tensor]:
        """Priors [B, A] of the legal moves, and values [B] for who is to move."""
        logits, values = self(boards)
        return logits.masked_fill(~legal, -1e9).softmax(dim=1), values

    def contents(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Game, settings and weights."""
        settings = {"game": self.rules.name, "config": asdict(self.config)}
        return settings, {name: p.detach().numpy() for name, p in self.named_parameters()}

    @classmethod
    def of_contents(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> Self:
        """Make it of what a file has kept."""
        sizes = tuple(settings["config"].pop("hidden_sizes"))
        config = NetworkConfig(hidden_sizes=sizes, **settings["config"])
        network = cls(GAMES[settings["game"]], torch.Generator(), config)
        network.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
        return network


def check_network(where: str, rules: Rules, network: BoardNetwork) -> None:
    """Refuse a network of another board.

    Raises:
        ValueError: if it has learned other rules.
    """
    if network.rules.name != rules.name:
        raise ValueError(
            f"{where}: expected a network of {rules.name}, got one of {network.rules.name}. Train "
            "one for this board, or use that one with its own rules."
        )
