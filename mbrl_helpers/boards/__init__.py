"""Board games by tree search: rules, given or learned, a batched search, and self-play.

`rules` has tic-tac-toe and Connect Four, `learned` a network in their place; `search` grows trees
over many games at once, with priors and values of a `network` or with random games. `selfplay`
learns both from games against itself; `players` and `matches` say how well it plays, and `solver`
is never wrong.
"""
