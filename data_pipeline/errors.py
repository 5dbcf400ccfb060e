"""The one exception for what a user can mend."""


class InputError(ValueError):
    """A bad input: a setting, a path, a shard, a checkpoint, a task.

    The message says what, where and how to mend it, in one line. Command lines print it and exit with code 2;
    every other exception is a bug of ours and keeps its traceback.
    """
