#!/bin/sh
# What became of the job $1: running, success or failed. A question that PBS does not answer is asked again later.
told=$(qstat -x -f "$1" 2> /dev/null) || { echo running; exit; }
case "$told" in
  *"job_state = F"*"Exit_status = 0"* | *"Exit_status = 0"*"job_state = F"*) echo success ;;
  *"job_state = F"*) echo failed ;;
  *) echo running ;;
esac
