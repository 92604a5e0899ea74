#!/bin/sh
# Rotate the client certificates of a device group, and wait until every device is done.
#
#   FIOCTL_FACTORY=acme FIOCTL_TOKEN=... ./rotate-group.sh GROUP REASON [ID [OPTION...]]
#
# ID is the rotation's ROTATIONID. Run again with the same ID, the script pushes nothing twice and continues to wait.
# OPTIONs, such as --server-name NAME, go to the dry run and to the push. ROTATE_TIMEOUT is how long to wait, in
# seconds (7200). The state of each device is written to rotation.xml (JUnit). Exit codes: 0 every device is done,
# 3 some are not, 4 time ran out, 5 refused.
set -eu

if [ $# -lt 2 ]; then
    echo "usage: $0 GROUP REASON [ID [OPTION...]]" >&2
    exit 2
fi
group=$1 reason=$2 id=${3:-certs-$(date +%s)}
if [ $# -gt 3 ]; then shift 3; else shift $#; fi

echo "rotation $id" >&2
fioctl-rotate config rotate-certs -g "$group" -r "$reason" --rotation-id "$id" --dryrun "$@"
fioctl-rotate config rotate-certs -g "$group" -r "$reason" --rotation-id "$id" --yes "$@"
exec fioctl-rotate rotations watch "$id" -g "$group" \
    --exit-status --timeout "${ROTATE_TIMEOUT:-7200}" --junit rotation.xml
