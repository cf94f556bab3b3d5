"""The entry point of the `onward` command."""

import sys


def main() -> int:
    """Run the command line.

    Returns:
        The exit code, see `appliance.cli.output.Exit`.
    """
    from appliance.cli.output import Exit
    from appliance.cli.root import call, quiet_stdout

    try:
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
