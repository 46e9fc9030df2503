"""The parameter pass of LGA: p <- p - amount / phi(g), in place (Eq. 2 and Eq. 5).

phi(g) = g + xi where g >= 0, g - xi elsewhere; so 1 / phi(g) = sign(g) / (|g| + xi) with sign(0) = +1.
This package does not depend on losses: ``amount`` is gamma2 * Omega of the step, as a number or as a tensor on the
device.

`memory` determines which pairs of parameter and gradient are plain dense memory, and lays out the others. `operators`
is the pass in torch operators, for all devices and for torch.compile; `native` is the same in C for CPUs. `rounding`
rounds parameters of 16 bits stochastically. All implementations give the same bits.
"""

from lossaware.correction.correction import Correction as Correction
from lossaware.correction.correction import Means as Means
from lossaware.correction.correction import is_push as is_push
from lossaware.correction.correction import update_mean as update_mean
from lossaware.correction.memory import WORK as WORK
from lossaware.correction.memory import Pair as Pair
from lossaware.correction.memory import as_local as as_local
from lossaware.correction.memory import refuse_shared_elements as refuse_shared_elements
from lossaware.correction.memory import refuse_uninitialized as refuse_uninitialized
from lossaware.correction.rounding import NOISE_BITS as NOISE_BITS
