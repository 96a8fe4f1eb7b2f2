"""What can be wrong with a checkpoint."""


class CheckpointError(ValueError):
    """There is no such checkpoint, or its files do not say or hold what they must; says what to do."""


class UnsupportedModel(CheckpointError):
    """config.json asks for something that would change the model's output and is not implemented."""
