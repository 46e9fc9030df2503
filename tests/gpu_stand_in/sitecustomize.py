"""Python imports this module as it starts, where its folder is on PYTHONPATH: all processes of a run get the stand-in."""

import stand_in

stand_in.install()
