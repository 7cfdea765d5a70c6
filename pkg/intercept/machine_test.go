package intercept

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// An interpreter for the committed programs, so that tests without root run
// them as they are on maps and sockets of their own (fakekernel_test.go).

// program is one of the committed programs.
type program struct {
	name    string
	code    asm.Instructions
	targets []int // of each instruction that jumps, as an index
}

// newPrograms returns the committed programs by their names.
func newPrograms(t *testing.T) (*ebpf.CollectionSpec, map[string]*program) {
	t.Helper()
	spec, err := loadKernel()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]*program)
	for name, p := range spec.Programs {
		at := make(map[asm.RawInstructionOffset]int)
		for i := p.Instructions.Iterate(); i.Next(); {
			at[i.Offset] = i.Index
		}
		c := &program{name: name, code: p.Instructions, targets: make([]int, len(p.Instructions))}
		for i := p.Instructions.Iterate(); i.Next(); {
			next := int(i.Offset) + int(i.Ins.Width())
			c.targets[i.Index] = at[asm.RawInstructionOffset(next+int(i.Ins.Offset))]
		}
		all[name] = c
	}
	return spec, all
}

// machine is one run of a program. A pointer is the number of a region, from 1
// on, in its upper half and an offset in it in its lower: 0 is NULL.
type machine struct {
	kernel  *fakeKernel
	program *program
	regions []region
	r       [11]uint64
	stack   [stackSize]byte
}

// region is memory that a program may point to. What it is besides bytes is
// for helpers.
type region struct {
	bytes  []byte
	table  *fakeMap
	socket *fakeSocket
}

const stackSize = 512

// run runs the program on the context and returns what it returns.
func (m *machine) run(context uint64) uint64 {
	m.r[1] = context
	clear(m.stack[:])
	m.r[10] = m.point(region{bytes: m.stack[:]}) + stackSize
	for pc := 0; ; {
		ins := &m.program.code[pc]
		op := uint8(ins.OpCode)
		switch op & 7 {
		case 5, 6:
			if op == 0x95 {
				return m.r[0]
			}
			pc = m.jump(pc, op, ins)
			continue
		case 4, 7:
			m.alu(op, ins)
		default:
			m.memory(op, ins)
		}
		pc++
	}
}

func (m *machine) point(r region) uint64 {
	m.regions = append(m.regions, r)
	return uint64(len(m.regions)) << 32
}

func (m *machine) at(p uint64) region {
	n := int(p >> 32)
	if n < 1 || n > len(m.regions) {
		panic(fmt.Sprintf("%s: %#x points nowhere", m.program.name, p))
	}
	return m.regions[n-1]
}

// bytes returns n bytes of memory; a pointer outside of it is a bug of the
// interpreter, since the verifier has seen the programs.
func (m *machine) bytes(p uint64, n int) []byte {
	offset := int(uint32(p))
	return m.at(p).bytes[offset : offset+n]
}

// memory loads and stores.
func (m *machine) memory(op uint8, ins *asm.Instruction) {
	if ins.OpCode.IsDWordLoad() {
		if ins.IsLoadFromMap() {
			m.r[ins.Dst] = m.point(region{table: m.kernel.tables[ins.Reference()]})
			return
		}
		m.r[ins.Dst] = uint64(ins.Constant)
		return
	}
	size := [4]int{4, 2, 1, 8}[op>>3&3]
	if op&7 == 1 {
		m.r[ins.Dst] = load(m.bytes(m.r[ins.Src]+uint64(int64(ins.Offset)), size))
		return
	}
	value := uint64(ins.Constant)
	if op&7 == 3 {
		value = m.r[ins.Src]
	}
	to := m.bytes(m.r[ins.Dst]+uint64(int64(ins.Offset)), size)
	if op&0xe0 == 0xc0 {
		if ins.OpCode != asm.AddAtomic.OpCode(asm.DWord) {
			panic(fmt.Sprintf("%s: %v is not known", m.program.name, ins))
		}
		value += load(to)
	}
	store(to, value)
}

func load(b []byte) uint64 {
	switch len(b) {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(binary.NativeEndian.Uint16(b))
	case 4:
		return uint64(binary.NativeEndian.Uint32(b))
	}
	return binary.NativeEndian.Uint64(b)
}

func store(b []byte, v uint64) {
	switch len(b) {
	case 1:
		b[0] = byte(v)
	case 2:
		binary.NativeEndian.PutUint16(b, uint16(v))
	case 4:
		binary.NativeEndian.PutUint32(b, uint32(v))
	default:
		binary.NativeEndian.PutUint64(b, v)
	}
}

// operand is an instruction's second one.
func (m *machine) operand(op uint8, ins *asm.Instruction) uint64 {
	if op&8 != 0 {
		return m.r[ins.Src]
	}
	return uint64(ins.Constant)
}

func (m *machine) alu(op uint8, ins *asm.Instruction) {
	a, b, mask := m.r[ins.Dst], m.operand(op, ins), uint64(63)
	narrow := op&7 == 4
	if narrow && op&0xf0 != 0xd0 {
		a, b, mask = uint64(uint32(a)), uint64(uint32(b)), 31
	}
	switch op & 0xf0 {
	case 0x00:
		a += b
	case 0x10:
		a -= b
	case 0x40:
		a |= b
	case 0x50:
		a &= b
	case 0x60:
		a <<= b & mask
	case 0x70:
		a >>= b & mask
	case 0xa0:
		a ^= b
	case 0xb0:
		a = b
	case 0xd0:
		m.r[ins.Dst] = swap(a, ins.Constant, op&8 != 0)
		return
	default:
		panic(fmt.Sprintf("%s: %v is not known", m.program.name, ins))
	}
	if narrow {
		a = uint64(uint32(a))
	}
	m.r[ins.Dst] = a
}

// swap turns the lowest bits round, if they are not in the order that is asked
// for. The machines that tests run on are little-endian.
func swap(v uint64, size int64, big bool) uint64 {
	switch {
	case size == 16 && big:
		return uint64(bits.ReverseBytes16(uint16(v)))
	case size == 16:
		return uint64(uint16(v))
	case size == 32 && big:
		return uint64(bits.ReverseBytes32(uint32(v)))
	case size == 32:
		return uint64(uint32(v))
	case big:
		return bits.ReverseBytes64(v)
	}
	return v
}

// jump returns which instruction is next; helpers are called on the way.
func (m *machine) jump(pc int, op uint8, ins *asm.Instruction) int {
	if op == 0x85 {
		m.r[0] = m.kernel.call(m, asm.BuiltinFunc(ins.Constant))
		return pc + 1
	}
	a, b := m.r[ins.Dst], m.operand(op, ins)
	signedA, signedB := int64(a), int64(b)
	if op&7 == 6 {
		a, b = uint64(uint32(a)), uint64(uint32(b))
		signedA, signedB = int64(int32(a)), int64(int32(b))
	}
	var taken bool
	switch op & 0xf0 {
	case 0x00:
		taken = true
	case 0x10:
		taken = a == b
	case 0x20:
		taken = a > b
	case 0x30:
		taken = a >= b
	case 0x40:
		taken = a&b != 0
	case 0x50:
		taken = a != b
	case 0x60:
		taken = signedA > signedB
	case 0x70:
		taken = signedA >= signedB
	case 0xa0:
		taken = a < b
	case 0xb0:
		taken = a <= b
	case 0xc0:
		taken = signedA < signedB
	case 0xd0:
		taken = signedA <= signedB
	default:
		panic(fmt.Sprintf("%s: %v is not known", m.program.name, ins))
	}
	if taken {
		return m.program.targets[pc]
	}
	return pc + 1
}
