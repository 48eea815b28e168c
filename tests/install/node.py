"""A machine that is dispatcher and node, as its user has it: through `fernd` and systemctl."""

from __future__ import annotations

import json
from typing import Any

from tests.install.conftest import FUNCTION
from tests.install.machine import Machine

CLIENT = "export FERND_URL=http://127.0.0.1:7070 FERND_TOKEN=$(cat /var/lib/fernd/api-token); "


def install(machine: Machine) -> None:
    """Make a machine a dispatcher and its own node, with a function."""
    machine.run("/bundle/install.sh --serve")
    token = join_token(machine)
    machine.run(f"/bundle/install.sh --dispatcher http://127.0.0.1:7070 --token {token} --description 'under test'")
    add_function(machine)


def join_token(machine: Machine) -> str:
    """Have the dispatcher make a join token."""
    return str(json.loads(machine.run(CLIENT + "fernd node join-token --json"))["token"])


def add_function(machine: Machine) -> None:
    """Make the function known, and its image."""
    machine.load_image(FUNCTION)
    machine.run(CLIENT + f"fernd function create echo --image {FUNCTION} --timeout 300")


def invoke(machine: Machine, body: str) -> str:
    """Call the function and give its answer."""
    return machine.run(CLIENT + f"fernd invoke echo -b '{body}'")


def begin(machine: Machine, body: str) -> str:
    """Have a task begun; give its id when it runs."""
    script = f"""
import json, os, urllib.request
def ask(method, path, body=None):
    request = urllib.request.Request(os.environ["FERND_URL"] + "/v1/" + path, method=method, data=body)
    request.add_header("Authorization", os.environ["FERND_TOKEN"])
    return json.load(urllib.request.urlopen(request))
function = ask("GET", "function/list?name=echo")[0]["id"]
print(ask("POST", "task/" + function, b"{body}")["id"])
"""
    task = machine.run(CLIENT + f"python3 - <<'EOF'\n{script}\nEOF").strip()
    machine.until(CLIENT + f'fernd task show {task} --json | grep -q \'"phase": *"running"\'')
    return task


def shown(machine: Machine, task: str) -> dict[str, Any]:
    """What is known of a task."""
    found: dict[str, Any] = json.loads(machine.run(CLIENT + f"fernd task show {task} --json"))
    return found


def wait_finished(machine: Machine, task: str, seconds: float = 90.0) -> dict[str, Any]:
    """Wait for a task's end."""
    machine.until(CLIENT + f'fernd task show {task} --json | grep -q \'"state": *"finished"\'', seconds)
    return shown(machine, task)


def agent_pid(machine: Machine) -> str:
    """The agent's main process."""
    return machine.run("systemctl show --property MainPID --value fernd-agent").strip()


def containers(machine: Machine) -> list[str]:
    """Containers of any node on the machine's engine."""
    return machine.run("docker ps --all --quiet --filter label=fernd.node").split()
