"""The shell text that runs inside an environment: the loop of a channel, and the end of a command that is unwanted.

Both need ``/bin/sh`` and, for shells that can be used again, a mounted ``/proc`` and ``setsid``.
"""

from __future__ import annotations

from typing import Final

DRIVER: Final = rb"""exec 3>&1 4>&2 >/dev/null 2>&1
t_how=
t_kind=single
t_leads='read -r t_pid t_name t_state t_parent t_group t_rest </proc/self/stat && [ "$t_pid" = "$t_group" ]'
if [ /proc/$$/fd/3 -ef /proc/$$/fd/3 ] && ! [ /proc/$$/fd/3 -ef /proc/$$/fd/0 ]; then
    if t_how=$(command -v setsid) && (exec "$t_how" /bin/sh -c "$t_leads"); then
        t_kind=setsid
    else
        t_how=
        set -m
        if (exec /bin/sh -c "$t_leads"); then t_kind=monitor; else set +m; fi
    fi
fi
[ "$t_kind" = single ] && trap : HUP INT QUIT TERM USR1 USR2 ALRM PIPE
t_settle() {
    for t_fd in /proc/[0-9]*/fd/[1-9]; do
        case $t_fd in "/proc/$$/"* | "/proc/$PPID/"*) continue ;; esac
        if [ "$t_fd" -ef "/proc/$$/fd/3" ] || [ "$t_fd" -ef "/proc/$$/fd/4" ]; then
            printf '\036%s held\n' "$1" >&3
            return
        fi
    done
    printf '\036%s clean\n' "$1" >&3
}
t_refuse() {
    printf '\036%s %s\n' "$1" "$2" >&3
    exit 125
}
t_run() {
    printf '\036%s\n' "$1" >&3
    printf '\036%s\n' "$1" >&4
    (
        cd -- "$3" || t_refuse "$2" workdir
        unset OLDPWD
        eval "$4" || t_refuse "$2" env
        shift 4
        exec ${t_how:+"$t_how"} "$@" 3>&- 4>&-
    ) </dev/null >&3 2>&4
    t_status=$?
    printf '\036%s %s\n' "$2" "$t_status" >&3
    printf '\036%s\n' "$2" >&4
    t_settle "$2"
}
"""
"""What a channel's shell reads first. Its own complaints go nowhere; 3 and 4 are what the host reads.

``t_run START END DIRECTORY EXPORTS WORD...`` runs a command in a session of its own (``setsid``), or else in a process
group of its own (``monitor``), or else in that of the shell (``single``), which then survives what a command sends to
its own group, and is not used a second time. It tells the command's exit status first, and afterwards whether some
process still holds the channel's outputs.
"""

GREETING: Final = rb"""printf '\036%%s %%s %%s\n' %s "$t_kind" "$$" >&3
"""

KILLER: Final = r"""exec 2>/dev/null
channel=$1 patience=$2 shared=$3 known=' '
line_feed='
'
set -f
look() {
    stats=$(set +f && cat /proc/[0-9]*/stat)
    [ "$stats" ] || exit 1
    grew=1
    while [ "$grew" ]; do
        grew= alive= IFS=$line_feed
        for line in $stats; do
            process=${line%% *}
            [ "$process" = "$channel" ] && continue
            IFS=' '
            set -- ${line##*) }
            case $known in
            *" $process "*) ;;
            *)
                kin=
                case " $channel$known" in *" $2 "*) kin=1 ;; esac
                case " $shared$known" in *" $3 "* | *" $4 "*) kin=1 ;; esac
                [ "$kin" ] || continue
                known="$known$process " grew=1
                ;;
            esac
            case $1 in Z | X) ;; *) alive="$alive $process" ;; esac
        done
    done
    [ "$alive" ]
}
if ! [ -r /proc/self/stat ]; then
    kill -s KILL -- "-$channel"
    exit 0
fi
[ -r "/proc/$channel/stat" ] || exit 2
if look; then
    kill -s STOP $alive
    look
    kill -s TERM $alive
    kill -s CONT $alive
fi
while look && [ "$patience" -gt 0 ]; do
    patience=$((patience - 2))
    sleep 0.2 || sleep 1
done
rounds=50
while look && [ "$rounds" -gt 0 ]; do
    kill -s STOP $alive
    look
    kill -s KILL $alive
    rounds=$((rounds - 1))
    [ "$rounds" -lt 45 ] && sleep 0.1
done
[ -z "$alive" ]
"""
"""Ends the command of one channel: ``sh -c KILLER sh PID PATIENCE SHARED``.

PID is the channel's shell, SHARED the same where the command shares its session, else empty. It finds the children of
that shell, their children, and whoever shares a session or a process group with one of them. They are stopped first,
lest one goes on because another has ended; they get TERM, and KILL after PATIENCE tenths of a second. Exit status 0:
none is left; 1: some are; 2: the shell is not there any more, so that nothing is known of its children.
"""

KILLER_FOUND_NO_SHELL: Final = 2
