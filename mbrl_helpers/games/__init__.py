"""Playing games in dreams of them: a world model of what is seen, and the model as environment.

`frames` learns MinAtar's next frames, `pong` how the objects of Atari's Pong move. `dreams` makes
an environment of either, and has the loop in which an agent learns there; `dqn` is that agent, and
plays in any vector environment, the game or a dream of it.
"""
