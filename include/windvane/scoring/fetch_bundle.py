"""`python -m windvane.scoring.fetch_bundle`: brings one bundle from the object store into a directory, every byte verified.

It runs before the scorer of a pod, which then needs neither a network nor the store's credentials. Its exit status is 1 for a bundle
that must not serve, and another if the store does not answer.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from windvane.errors import BundleError, ConfigError, StorageError
from windvane.object_path import ObjectPath
from windvane.shared_folder import SharedFolder, open_shared

UNREACHABLE = 75  # EX_TEMPFAIL: worth another try


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch one bundle, and rows to replay if asked for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m windvane.scoring.fetch_bundle", description="Fetch and verify one bundle.")
    parser.add_argument("--bundle", required=True, help="digest of the bundle")
    parser.add_argument("--from", dest="source", required=True, help="URI of all bundles")
    parser.add_argument("--to", type=Path, required=True, help="directory that gets the bundle's directory")
    parser.add_argument("--replay", help="URI of an object with rows to replay")
    parser.add_argument("--replay-to", type=Path, help="file that gets these rows")
    options = parser.parse_args(arguments)
    if (options.replay is None) != (options.replay_to is None):
        parser.error("--replay and --replay-to go together")
    try:
        bundle = open_shared(SharedFolder(ObjectPath.of(options.source), cache=options.to), options.bundle)
        if options.replay:
            options.replay_to.write_bytes(ObjectPath.of(options.replay).read_bytes())
    except (BundleError, ConfigError) as exc:
        print(exc, file=sys.stderr)
        return 1
    except (StorageError, OSError) as exc:
        print(exc, file=sys.stderr)
        return UNREACHABLE
    print(f"fetched and verified {bundle.path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
