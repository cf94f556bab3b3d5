"""Asks from within a network namespace: `python -m tests.unit.health.probing asyncio|uvloop`.

On standard input there is a Python literal, a list of (kind, address, port, settings); all are asked at once, and
standard output gets (code, detail, duration) of each as JSON, in the same order.
"""

import ast
import asyncio
import json
import subprocess
import sys
from ipaddress import ip_address
from typing import Any

import uvloop

from health.checks import CHECKS
from health.spec import Result, Target
from tests.netns import Namespace

Question = tuple[str, str, int, dict[str, Any]]


async def answers(questions: list[Question]) -> list[Result]:
    return await asyncio.gather(
        *(
            CHECKS[kind](**{"timeout_s": 5.0} | settings).probe(Target("web/web1", ip_address(address), port))
            for kind, address, port, settings in questions
        )
    )


def asked(space: Namespace, loop: str, *questions: Question) -> list[tuple[str, str, float]]:
    """What checks in a namespace find: code, detail and duration of each."""
    command = space.command(sys.executable, "-m", "tests.unit.health.probing", loop)
    done = subprocess.run(command, input=repr(list(questions)), check=True, capture_output=True, text=True, timeout=60)
    return [tuple(result) for result in json.loads(done.stdout)]


if __name__ == "__main__":
    run = {"uvloop": uvloop.run, "asyncio": asyncio.run}[sys.argv[1]]
    results = run(answers(ast.literal_eval(sys.stdin.read())))
    print(json.dumps([(result.code, result.detail, result.duration_s) for result in results]))
