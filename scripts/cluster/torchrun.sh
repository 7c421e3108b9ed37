#!/bin/sh
# Trains with one rank for each GPU of this machine (or core, where there is no GPU), started by torchrun of torch 2.11.
#   scripts/cluster/torchrun.sh --config run.toml          # the arguments are those of `sdtrain train`
#
# NPROC    how many ranks                                default: auto
# SDTRAIN  the program                                   default: sdtrain
#
# To change for several machines: `--standalone` becomes, on each of them,
# `--nnodes 2 --node-rank 0 --master-addr FIRST_MACHINE --master-port 29500`.
# torchrun ends with 1 whatever the ranks end with, and kills ranks that save for more than 30 seconds after a signal: where
# that matters, `sdtrain launch --nproc N -- train …` does the same without either.
set -eu

# Without this SIGUSR1 would end torchrun itself, and leave its ranks behind.
export PET_SIGNALS_TO_HANDLE="${PET_SIGNALS_TO_HANDLE:-SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1}"
exec torchrun --standalone --no-python --nproc-per-node "${NPROC:-auto}" "${SDTRAIN:-sdtrain}" train "$@"
