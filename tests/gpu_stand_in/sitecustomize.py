"""Python imports this module as it starts, where its folder is on PYTHONPATH; so all processes of a run have it."""

import stand_in

stand_in.install()
