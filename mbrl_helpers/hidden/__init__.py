"""Hidden state: environments that show less than their state, and models that remember the rest.

`glimpses` are looks without some columns, sometimes without anything; `cell` is one step of a
recurrent state-space model, prediction and correction; `model` learns it from `sequences`, filters
and imagines; `pictures` puts an autoencoder in front of it; `actor` learns a policy in what it
imagines; `agent` plans, or acts, from what the model believes.
"""
