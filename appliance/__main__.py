"""The entry point of the `onward` command."""

import sys

from appliance.cli.output import Exit, quiet_stdout


def main() -> int:
    """Run the command line.

    Returns:
        The exit code, see `appliance.cli.output.Exit`.
    """
    try:
        from appliance.cli.root import call  # takes a moment, in which people may change their minds

        code = call(sys.argv[1:])
        print(end="", flush=True)  # here, where a closed pipe can still be dealt with
    except BrokenPipeError:
        # The reader has seen enough (`onward check FILE | head -1`); that is no failure of ours.
        quiet_stdout()
        return Exit.OK
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
