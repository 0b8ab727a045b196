#!/bin/sh
# What became of the job $1: running, success or failed. A question that LSF does not answer is asked again later.
case "$(bjobs -noheader -o stat "$1" 2> /dev/null)" in
  DONE) echo success ;;
  EXIT) echo failed ;;
  *) echo running ;;
esac
