"""The exceptions that mean something else than "the program is wrong"."""


class UserError(ValueError):
    """Report bad input: what was given, what is allowed, what to do.

    The command line prints the message on one line and exits with code 2; Python callers see an
    ordinary ``ValueError``.

    Attributes:
        on_all_processes: whether every process of a run raises it, see ``scale.agreement``.
    """

    on_all_processes = False


class RunError(RuntimeError):
    """Report a run that cannot go on although its input was in order, e.g. a loss that is NaN.

    The command line prints the message on one line and exits with code 1.

    Attributes:
        on_all_processes: whether every process of a run raises it.
    """

    on_all_processes = False
