//! What `help` says.

use crate::text::command::{Things, Verb};

/// All commands, a line each.
pub const OVERVIEW: &str = "\
Sockets
    make socket       open a socket that processes can inherit
    list sockets      show sockets, by name or file number
    remove sockets    close sockets, by name or file number
Processes
    make process      start a process
    list processes    show processes, by name or PID
    watch processes   read their output and their ends as they come
    remove processes  forget processes and their output; they are not signalled
    tail              show the last lines of a process's output, or follow it
    signal            send a signal to processes
    stats             show what processes have done and what is kept of it
Values
    set               store a value, or clear it
    get               show a value
    list values       show values
    remove values     clear values
This kernel
    sessions          show who is connected
    leases            show who has the say over what
    version           show the release, the age and the size of this kernel
    attach            leave this protocol and speak frames
    upgrade           go on with another kingpole-kernel program, in place
    exit-if-idle      end the kernel if it holds no process, socket or value
    help              \"help COMMAND\" tells more about one
    quit              close this session

Each word may be shortened: \"l p\" is \"list processes\". Only exit-if-idle may not.
A space inside a word is written \"\\ \". A name that ends in * stands for all that begin so.
While you watch, each empty line asks for more output, and q stops.
";

/// What is said about one command.
#[must_use]
pub const fn topic(verb: Verb, things: Option<Things>) -> &'static str {
    match (verb, things) {
        (Verb::Make, Some(Things::Sockets)) => MAKE_SOCKET,
        (Verb::Make, Some(_)) => MAKE_PROCESS,
        (Verb::Make, None) => MAKE,
        (Verb::List, Some(Things::Processes)) => LIST_PROCESSES,
        (Verb::List, Some(Things::Sockets)) => LIST_SOCKETS,
        (Verb::List, Some(Things::Values)) => LIST_VALUES,
        (Verb::List, None) => LIST,
        (Verb::Remove, Some(Things::Processes)) => REMOVE_PROCESSES,
        (Verb::Remove, Some(Things::Sockets)) => REMOVE_SOCKETS,
        (Verb::Remove, Some(Things::Values)) => REMOVE_VALUES,
        (Verb::Remove, None) => REMOVE,
        (Verb::Watch, _) => WATCH,
        (Verb::Tail, _) => TAIL,
        (Verb::Signal, _) => SIGNAL,
        (Verb::Stats, _) => STATS,
        (Verb::Set, _) => SET,
        (Verb::Get, _) => GET,
        (Verb::Sessions, _) => SESSIONS,
        (Verb::Leases, _) => LEASES,
        (Verb::Upgrade, _) => UPGRADE,
        (Verb::Version, _) => VERSION,
        (Verb::Attach, _) => ATTACH,
        (Verb::ExitIfIdle, _) => EXIT_IF_IDLE,
        (Verb::Help, _) => HELP,
        (Verb::Quit, _) => QUIT,
    }
}

const MAKE: &str = "\
make process NAME [OPTION=VALUE ...] COMMAND [ARGUMENT ...]
make socket NAME [OPTION=VALUE ...]

\"help make process\" and \"help make socket\" list the options.
";

const MAKE_SOCKET: &str = "\
make socket NAME [OPTION=VALUE ...]

Opens a socket, and answers with a line that shows it. The same command again shows the same
socket.

    family=unix|inet|inet6   unix if there is a path, else inet
    type=stream|dgram|seqpacket
    backlog=N                connections that may wait (5)
For unix sockets:
    path=PATH                absolute; a file that is there is replaced
    umask=N                  decimal, while the path is made
For inet and inet6:
    host=ADDRESS             numeric, localhost, or a name of /etc/hosts (the loopback)
    port=N                   left out, the system picks one
    interface=NAME           accept on one network interface only
    reuseport=1              each process that uses the socket gets one of its own

    make socket web port=8080
    make process web /usr/bin/serve --fd $(socket.web.fileno)
";

const MAKE_PROCESS: &str = "\
make process NAME [OPTION=VALUE ...] COMMAND [ARGUMENT ...]

Starts a process, and answers with a line that shows it. The same command again shows the same
process, until its end has been read.

    working_dir=PATH         absolute (/)
    uid=USER gid=GROUP       name or number, of /etc/passwd and /etc/group
    shell=1                  the first argument is a line for /bin/sh
    bufsize=N                unread output to keep, with k, m or g behind it (2m); 0 keeps none
    stdout=0 stderr=0        throw a stream away
    stderr=stdout            treat both as one
    env.NAME=VALUE           a variable; there are no others
    rlimit.NAME=N            a resource limit, such as rlimit.nofile=1024; -1 is none
    watch=1                  go on as \"watch processes NAME\" does

In arguments, $(socket.NAME.fileno) and $(socket.NAME.port) stand for a socket's numbers, and the
process gets that socket.

    make process web uid=www-data env.LANG=C /usr/bin/serve --fd $(socket.web.fileno)
";

const LIST: &str = "\
list processes|sockets|values [NAME ...]

A name may end in *. Processes are found by PID too, and sockets by file number. Without a name
all are shown.
";

const LIST_PROCESSES: &str = "\
list processes [NAME|PID ...]

A process that has ended stays in the list until its end has been acknowledged.
";

const LIST_SOCKETS: &str = "list sockets [NAME|FILENO ...]\n";

const LIST_VALUES: &str = "list values [NAME ...]\n";

const REMOVE: &str = "\
remove processes|sockets|values [NAME ...]

A name may end in *. Processes are found by PID too, and sockets by file number.
";

const REMOVE_PROCESSES: &str = "\
remove processes [NAME|PID ...]

Throws the unread output of processes away, records no more of it, and forgets them at their ends.
They are not signalled.
";

const REMOVE_SOCKETS: &str = "\
remove sockets [NAME|FILENO ...]

Closes sockets and removes their paths. Processes that have one keep it.
";

const REMOVE_VALUES: &str = "\
remove values NAME ...

Clears values. To clear all, name them: \"*\" alone is refused.
";

const WATCH: &str = "\
watch processes [NAME|PID ...]

Sends output and ends as they come, in batches. Each batch is closed by \"] \" and waits for a line
from you: an empty line acknowledges it and asks for more, q acknowledges it and stops.

    out:NAME:TIME:LENGTH     and that many bytes of standard output
    err:NAME:TIME:LENGTH     and that many bytes of standard error
    closed:NAME:TIME:STATUS  the process has ended; minus a signal's number if one ended it

Acknowledged output leaves the buffer, and a process whose end was acknowledged leaves the list.
Two watchers of one process both see all that comes: an acknowledgement of either releases what
both have been sent. If you leave without a line, that batch is not acknowledged.

You cannot take anything from a program that is attached by frames: output and ends of a process
that such a program started, or follows, are released by that program alone. Your acknowledgement
then only moves your own place.

What was released stays released, whatever becomes of the kernel. What you acknowledged while a
slower watcher or such a program still held it back is not remembered across a crash or an upgrade
of the kernel: it is kept, and sent again to whoever watches next.
";

const TAIL: &str = "\
tail [-f] NAME|PID [LINES]

Shows the last lines (10) of the output that is still kept. With -f it goes on until you send a
line. Nothing is acknowledged, so nobody misses anything by it.
";

const SIGNAL: &str = "\
signal NAME|PID SIGNAL [process|group|tree|children|descendants]

Sends a signal, by name or number, to a process: to it alone (if nothing is said), its process
group, it and all its descendants, or only its children or descendants. NAME may end in *.

    signal web HUP
    signal web.* TERM group
";

const STATS: &str = "\
stats [NAME|PID ...]

    pid uptime               of those that run
    exit ran cpu maxrss      of those that ended: status (minus a signal's number), how long they
                             ran, processor time, most memory
    kept                     bytes of the buffer that are in use (with 32 or more for each record),
                             and its size
    records                  number of the oldest record that is kept, and of the next one to come
    in                       bytes read from the process so far, standard output + standard error;
                             each of them is one of these three:
    acknowledged             released by whoever read them (or thrown away by \"remove\")
    dropped                  lost because the buffer was full
    unread                   still kept
";

const SET: &str = "\
set NAME [VALUE ...]

Stores a value; without one, clears it. Several words are joined by single spaces.
";

const GET: &str = "\
get NAME

Shows a value. An empty reply means that there is none.
";

const SESSIONS: &str = "\
sessions

Shows who is connected: number, text or frames, address, user, PID, since when, processes followed,
bytes that wait until it reads them, and what it calls itself. Yours is marked with *.
";

const LEASES: &str = "\
leases

Shows the leases: name, fencing number, session of the holder (0 when it has gone), since when.
";

const UPGRADE: &str = "\
upgrade [--check] PATH

Lets this process go on as the program at PATH: same pid, same processes, sockets, values, output and
sessions. The program first rehearses on the live state; if anything is wrong with it, nothing
happens. With --check it only rehearses.

    upgrade --check /usr/local/bin/kingpole-kernel
    upgrade /usr/local/bin/kingpole-kernel
";

const VERSION: &str = "\
version

Shows the kernel's release, its pid and its guard's, its age, and how much it holds.
";

const ATTACH: &str = "\
attach VERSION

For programs: from the next byte on this session speaks frames of that version (docs/protocol.md).
";

const EXIT_IF_IDLE: &str = "\
exit-if-idle

Ends the kernel when the last session closes, if it holds no process, socket or value and nobody
has connected in between. It has to be spelled out.
";

const HELP: &str = "help [COMMAND [WORD]]\n";

const QUIT: &str = "\
quit

Closes this session; so does Ctrl-D. Nothing else ends by it.
";
