"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""


class UserError(ValueError):
    """Report bad input: what was given, what is allowed, what to do.

    The command line prints the message on one line and exits with code 2; Python callers see an
    ordinary ``ValueError``.
    """
