"""Read what gcloud tells of a service: `python -m deploy.revisions COMMAND` takes its JSON on standard input.

tagged TAG           the service → the revision with that tag, if it is the newest one
url [TAG]            the service → its address, or the tag's
former               [the service, its revisions] → the newest ready revision before the one that is served
notifications TOPIC  a bucket's notifications → the ids of those that go to the topic
"""

import json
import sys
from typing import Any


class Refusal(Exception):
    """What is asked for is not there; the text says what is."""


def tagged(service: Any, tag: str) -> str:
    """Return the revision with the tag; raise Refusal if a later one is ready, which promoting would send all to."""
    revision = _target(service, tag).get("revisionName", "")
    newest = service["status"].get("latestReadyRevisionName", "")
    if revision != newest:
        raise Refusal(f"promote: expected the tag {tag} on the newest ready revision, {newest}, got it on {revision}")
    return str(revision)


def url(service: Any, tag: str = "") -> str:
    """Return the address of the service, or of the tag."""
    found = _target(service, tag).get("url") if tag else service["status"].get("url")
    if not found:
        raise Refusal(f"the service has no address{f' for the tag {tag}' if tag else ''} yet")
    return str(found)


def _target(service: Any, tag: str) -> Any:
    targets = service["status"].get("traffic", [])
    tags = [target["tag"] for target in targets if "tag" in target]
    for target in targets:
        if target.get("tag") == tag:
            return target
    raise Refusal(f"there is no revision with the tag {tag}; there are: {', '.join(tags) or 'no tags'}")


def former(service: Any, revisions: Any) -> str:
    """Return the newest ready revision that is older than the one most requests go to."""
    targets = service["status"].get("traffic", [])
    share = {target.get("revisionName", ""): target.get("percent") or 0 for target in targets if target.get("percent")}
    served = max(share, key=lambda name: share[name], default="")
    made = {one["metadata"]["name"]: one["metadata"]["creationTimestamp"] for one in revisions}
    if served not in made:
        raise Refusal(f"rollback: the revision that is served, {served or 'none'}, is not in the list of revisions")
    older = [(made[name], name) for name in map(_ready, revisions) if name and made[name] < made[served]]
    if not older:
        raise Refusal(f"rollback: there is no ready revision before {served}")
    return str(max(older)[1])


def _ready(revision: Any) -> str:
    conditions = revision.get("status", {}).get("conditions", [])
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return str(revision["metadata"]["name"]) if ready else ""


def notifications(listed: Any, topic: str) -> str:
    """Return the ids of the notifications to the topic, one a line."""
    found = [one.get("Notification Configuration", one) for one in listed or []]
    return "\n".join(str(one["id"]) for one in found if one.get("topic", "").endswith(f"/topics/{topic}"))


def main(arguments: list[str]) -> int:
    """Run one command; return its exit status."""
    command, *words = arguments
    text = sys.stdin.read()
    told: Any = json.loads(text) if text.strip() else None
    try:
        if command == "former":
            service, revisions = told
            print(former(service, revisions))
        else:
            print({"tagged": tagged, "url": url, "notifications": notifications}[command](told, *words))
    except Refusal as refusal:
        print(f"deploy.sh: {refusal}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
