package intercept

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"unsafe"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// encode returns the bytes of a map's key or value as the kernel sees them.
func encode(t *testing.T, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := binary.Write(&b, binary.NativeEndian, v); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// connectionIn reads a flow's key as struct flow_key of bpf/types.h has it:
// addresses in the order of the network, all else in the machine's.
func connectionIn(key []byte) workload.Connection {
	address := func(from int) netip.Addr { return netip.AddrFrom4([4]byte(key[from : from+4])) }
	return workload.Connection{
		NetnsCookie: binary.NativeEndian.Uint64(key),
		Client:      netip.AddrPortFrom(address(8), binary.NativeEndian.Uint16(key[16:])),
		Server:      netip.AddrPortFrom(address(12), binary.NativeEndian.Uint16(key[18:])),
	}
}

// FuzzFlowKey checks that a connection's key can be read back to it, so that
// no two connections have the same, and that its last bytes are zero, as those
// that the programs write.
func FuzzFlowKey(f *testing.F) {
	f.Add(uint64(4711), []byte{127, 0, 0, 1}, uint16(40000), []byte{127, 0, 0, 1}, uint16(28000))
	f.Add(uint64(0), []byte{10, 244, 0, 17}, uint16(1), []byte{169, 254, 169, 252}, uint16(2579))
	mapped := netip.MustParseAddr("::ffff:127.0.0.1").AsSlice()
	f.Add(uint64(1), mapped, uint16(1), []byte{127, 0, 0, 1}, uint16(1))
	f.Add(uint64(1), []byte{127, 0, 0, 1}, uint16(1), mapped, uint16(1))
	f.Add(uint64(1), make([]byte, 16), uint16(1), make([]byte, 16), uint16(1))
	f.Add(^uint64(0), []byte{255, 255, 255, 255}, uint16(65535), []byte{0, 0, 0, 0}, uint16(0))
	f.Fuzz(func(t *testing.T, cookie uint64, client []byte, clientPort uint16, server []byte, serverPort uint16) {
		c, ok := netip.AddrFromSlice(client)
		s, ok2 := netip.AddrFromSlice(server)
		if !ok || !ok2 {
			return
		}
		conn := workload.Connection{
			NetnsCookie: cookie, Client: netip.AddrPortFrom(c, clientPort), Server: netip.AddrPortFrom(s, serverPort),
		}
		if !c.Is4() || !s.Is4() {
			// Has no key. The Hooks have no maps: to look one up would panic.
			if _, err := (&Hooks{}).Claim(conn); !errors.Is(err, ErrNoFlow) {
				t.Fatalf("Claim(%+v) = %v, want ErrNoFlow", conn, err)
			}
			return
		}
		key := encode(t, flowKey(conn))
		if got := connectionIn(key); got != conn {
			t.Fatalf("the key of %+v is that of %+v", conn, got)
		}
		if len(key) != int(unsafe.Sizeof(kernelFlowKey{})) || !bytes.Equal(key[20:], make([]byte, 4)) {
			t.Fatalf("the key of %+v is %x", conn, key)
		}
	})
}

// FuzzDecode reads whatever bytes as each of the records that the programs
// write: too few are an error, and what is read has the same bytes again.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 15))
	f.Add(make([]byte, 16))
	f.Add(bytes.Repeat([]byte{0xff}, 64))
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x03"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		decode[kernelFlowKey](t, raw)
		decode[kernelFlow](t, raw)
		decode[kernelUnknownEvent](t, raw)
		decode[kernelVerdictEntry](t, raw)
		decode[kernelSettings](t, raw)
	})
}

func decode[T any](t *testing.T, raw []byte) {
	t.Helper()
	var v T
	// A hole between fields would have bytes of its own, and keys differ by
	// them.
	size := int(unsafe.Sizeof(v))
	if size != binary.Size(v) {
		t.Fatalf("%T has %d bytes, its fields %d", v, size, binary.Size(v))
	}
	err := binary.Read(bytes.NewReader(raw), binary.NativeEndian, &v)
	if (err == nil) != (len(raw) >= size) {
		t.Fatalf("%T of %d bytes read from %d: %v", v, size, len(raw), err)
	}
	if again := encode(t, v); err == nil && !bytes.Equal(again, raw[:size]) {
		t.Fatalf("%T read from %x is %x", v, raw[:size], again)
	}
}
