package intercept

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// The helpers that Linux 5.15 offers to each program type and that we may
// use: sock_addr_func_proto, sock_ops_func_proto and bpf_base_func_proto in
// net/core/filter.c and kernel/bpf/helpers.c of v5.15. What is not listed
// here must be looked up there before it is added.
var (
	helpersOfAll = []asm.BuiltinFunc{
		asm.FnMapLookupElem, asm.FnMapUpdateElem, asm.FnMapDeleteElem,
		asm.FnKtimeGetNs, asm.FnRingbufOutput, asm.FnSpinLock, asm.FnSpinUnlock,
	}
	helpersOf515 = map[ebpf.ProgramType][]asm.BuiltinFunc{
		ebpf.CGroupSockAddr: {
			asm.FnGetCurrentAncestorCgroupId, asm.FnGetNetnsCookie, asm.FnGetSocketCookie,
			asm.FnSkStorageGet, asm.FnSkLookupTcp, asm.FnSkRelease,
		},
		ebpf.CGroupSKB: {
			asm.FnSkbAncestorCgroupId, asm.FnSkFullsock, asm.FnSkStorageGet, asm.FnSkbLoadBytes,
		},
		ebpf.SchedCLS: {asm.FnSkbLoadBytes},
		// bpf_sk_storage_get for sock_release came with 5.9.
		ebpf.CGroupSock: {asm.FnGetSocketCookie, asm.FnSkStorageGet},
		// No cgroup id: bpf_get_current_ancestor_cgroup_id came with 6.4.
		ebpf.SockOps: {
			asm.FnGetNetnsCookie, asm.FnGetSocketCookie, asm.FnSkStorageGet,
			asm.FnSockOpsCbFlagsSet, asm.FnSetsockopt,
		},
	}
)

func TestProgramsUseHelpersOfLinux515(t *testing.T) {
	spec, err := loadKernel()
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	for name, p := range spec.Programs {
		allowed := map[asm.BuiltinFunc]bool{}
		for _, f := range append(helpersOf515[p.Type], helpersOfAll...) {
			allowed[f] = true
		}
		if helpersOf515[p.Type] == nil {
			t.Errorf("%s: no list of helpers for program type %s", name, p.Type)
		}
		for _, ins := range p.Instructions {
			if ins.IsKfuncCall() {
				t.Errorf("%s calls a kernel function: Linux 5.15 has none for it", name)
			}
			if !ins.IsBuiltinCall() {
				continue
			}
			calls++
			if f := asm.BuiltinFunc(ins.Constant); !allowed[f] {
				t.Errorf("%s (%s) calls %s, which is not known to be in Linux 5.15", name, p.Type, f)
			}
		}
	}
	if calls == 0 {
		t.Error("no helper call found: the test looks at the wrong thing")
	}
}

func TestNoMapIsLRU(t *testing.T) {
	spec, err := loadKernel()
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range spec.Maps {
		if m.Type == ebpf.LRUHash || m.Type == ebpf.LRUCPUHash {
			t.Errorf("%s: one pod could push out another's entries", name)
		}
	}
}
