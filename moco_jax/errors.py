"""Errors with a name of their own; `main` prints their message without a traceback."""


class CheckpointError(RuntimeError):
    """A checkpoint that is there cannot be used."""


class TrainingDivergedError(RuntimeError):
    """Loss or gradient was not finite in too many steps in a row."""


class WorkerError(RuntimeError):
    """A worker process that reads images ended, or failed in a way that it could not send."""
