"""Episodes side by side, of which a recurrent model is shown pieces.

Axes: B episodes, T steps, C coordinates of a look, A action.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Sequences:
    """Whole episodes side by side, padded at their ends.

    Attributes:
        look: [B, T+1, C] coordinates.
        seen: [B, T+1] 1 where there was a look; 0 in the padding.
        action: [B, T, A] in units of half the range.
        reward: [B, T] in units of its standard deviation.
        ended: [B, T] 1 where the episode ended in a terminal state.
        valid: [B, T] 1 where there is a step; 0 in the padding.
    """

    look: Tensor
    seen: Tensor
    action: Tensor
    reward: Tensor
    ended: Tensor
    valid: Tensor

    def draw(self, num: int, length: int, generator: torch.Generator) -> "Sequences":
        """Draw pieces of so many steps from anywhere in the episodes."""
        length = min(length, self.valid.shape[1])
        steps = self.valid.sum(1).long()
        chance = torch.rand(num, generator=generator)
        which = torch.multinomial(steps.float(), num, replacement=True, generator=generator)
        begin = (chance * ((steps[which] - length).clamp(min=0) + 1)).long()
        rows = begin[:, None] + torch.arange(length + 1)
        at, after = (which[:, None], rows[:, :-1]), (which[:, None], rows)
        return Sequences(
            self.look[after], self.seen[after], self.action[at], self.reward[at], self.ended[at],
            self.valid[at],
        )  # fmt: skip
