"""A training that ends in the middle, as a killed one does."""

from greffon.training.progress import Reporter


class Killed(BaseException):
    """Nothing of ours handles it, as nothing handles SIGKILL."""


class Dies(Reporter):
    """Ends the process, as far as one can from inside, when an epoch is told: `STAGE EPOCH`."""

    def __init__(self, what):
        self.what = what

    def epoch(self, stage, epoch, epochs, logs, best):
        if self.what == f"{stage} {epoch}":
            raise Killed
