# The node's file systems, for init.sh. The machine's root file system is the
# node's too, by the same paths, but of it only /tmp can be written: what the
# node writes elsewhere is kept in memory and ends with its mount namespace.
# shellcheck shell=bash disable=SC2154

mount --make-rprivate /

# /run, with the machine's folders that the node needs bound into it.
stage=$state/run
mkdir "$stage"
mount -t tmpfs -o mode=0755 tmpfs "$stage"
mkdir -p "$stage"/{lock,standins,node/{bin,tools,config,daemons,log,overlay,static,sysctl}}
mount --bind -o ro "$bin" "$stage/node/bin"
mount --bind -o ro "$tools" "$stage/node/tools"
mount --bind -o ro "$rig/config" "$stage/node/config"
mount --bind "$state/log" "$stage/node/log"
# -n: the lock of mount's own table is in the folder that is covered.
mount -n --move "$stage" /run

# Folders with fixed names that kubelet, containerd and CNI plugins write to.
for dir in /etc /opt /usr/libexec /var; do
	mkdir -p "/run/node/overlay$dir"/{upper,work}
	mount -t overlay -o "lowerdir=$dir,upperdir=/run/node/overlay$dir/upper,workdir=/run/node/overlay$dir/work" overlay "$dir"
done
# File systems of their own: an overlay cannot be the upper one of containers'.
mkdir -p /var/lib/{containerd,kubelet}
mount -t tmpfs tmpfs /var/lib/containerd
mount -t tmpfs tmpfs /var/lib/kubelet
# Volumes that kubelet mounts have to appear in pods that run already.
mount --make-rshared /var/lib/kubelet

mount --bind /tmp /tmp
mount -o remount,bind,ro /
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t proc proc /proc
# This namespace's copy of the machine's cgroup mounts goes, lest a program
# that looks through /proc/mounts takes one of them for the node's.
umount --recursive --lazy /sys
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf

# Sysctls outside of the network namespace are the machine's: not to be
# written. Kubelet is shown the values that it would otherwise set.
for dir in fs kernel vm; do
	mount --bind "/proc/sys/$dir" "/proc/sys/$dir"
	mount -o remount,bind,ro "/proc/sys/$dir"
done
while read -r name value; do
	file=/run/node/sysctl/${name//\//.}
	echo "$value" >"$file"
	mount --bind "$file" "/proc/sys/$name"
done <<-VALUES
	vm/overcommit_memory 1
	vm/panic_on_oom 0
	kernel/panic 10
	kernel/panic_on_oops 1
	kernel/keys/root_maxkeys 1000000
	kernel/keys/root_maxbytes 25000000
VALUES
