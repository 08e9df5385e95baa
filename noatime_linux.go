package main

import "syscall"

// noAtime opens a file without a trace in its access time: a lower is to stay
// as it is.
const noAtime = syscall.O_NOATIME
