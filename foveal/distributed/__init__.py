"""Data-parallel training: several processes, called ranks, on one machine or many, train one network over MPI.

    ranks = foveal.distributed.ranks()
    step = foveal.compile_step(net, loss, optimizer, ranks=ranks)
    for epoch in range(10):
        for shards in step.shares(loader, epoch):
            result = step.take_shards(shards)

`mpiexec -n 4 python program.py` runs this on four ranks, and `python program.py` on one, to the same bits. Every rank
holds the whole network. A batch is S shards of equal size, 8 unless said otherwise. Rank r of R takes the shards from
r S / R up to (r + 1) S / R, one after the other, and reads no others.

Why the bits are the same:

- A shard is computed alike wherever that is: its images, what augmentation and dropout draw for it, and the moments of
  its batch norms follow from its number alone.
- Gradients are added along one binary tree over the shards, ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)), whichever
  machines its parts lie on. Only sums of neighbours are sent, and MPI adds nothing: what its reductions return depends
  on the number of ranks, on the network and on the implementation. Shards that a last batch lacks are left out of it.
- Every rank makes the same update from the same sums. Once per epoch it is compared that they still agree.
- Running statistics change by the mean of what each shard would change them by, of all images alike.
- Where batch norms normalise the whole batch (sync_batch_norm), their moments, and in the backward pass the sums of
  their gradients, are added along the same tree.

tree.py       the order in which shards are added, on one rank and across ranks
ranks.py      Ranks: messages between ranks, each with a deadline; what all of them have to agree about
elastic.py    going on without the ranks that are gone
launch.py     `ranks`: whether mpiexec or srun has started this process, and what happens to all when one fails
exchange.py   what ranks exchange during a step, in a thread that stays inside of MPI
compress.py   gradients of fewer bits, with error feedback
buckets.py    gradients that are exchanged together, as soon as the backward pass has written them
shares.py     this rank's shards of each batch, which change where others are gone
found.py      what a step on shards finds
lockstep.py   the shards of a rank side by side, where batch norms see the whole batch
stored.py     what a checkpoint stores of a step on shards
sharded.py    what a training step does with the shards of a rank
window.py     what a step on shards is made with
"""

from foveal.arguments import check_calls
from foveal.distributed.launch import ranks
from foveal.distributed.ranks import Ranks

__all__ = ["Ranks", "ranks"]

check_calls(__name__)


def __dir__() -> list[str]:
    return __all__
