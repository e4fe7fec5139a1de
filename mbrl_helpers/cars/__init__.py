"""CarRacing from pixels: a car that sees, maps the road, learns how it moves, and plans.

`vision` is what an image tells: dashboard, road, colours, and how the car has moved. `road` makes a
map of one image. `driving` puts them together: the state, a learned model of the car, the driver
and a drive. `latent` is the other way, a world model whose state nobody designed.
"""
