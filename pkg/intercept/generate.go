package intercept

//go:generate go tool bpf2go -cc clang-16 -strip llvm-strip-16 -target amd64,arm64 -type settings -type verdict_entry -type flow_key -type flow -type tag -type unknown_event -type verdict -type setting_flags -type entry_flags kernel ../../bpf/sidestep.c -- -O2 -mcpu=v3 -Wall -Werror -isystem /usr/include/x86_64-linux-gnu -isystem /usr/include/aarch64-linux-gnu
