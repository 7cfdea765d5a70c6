package podcache

import "time"

// record is a pod as the cache knows it. It is replaced, never changed.
type record struct {
	pod
	changed time.Time // when its label was last seen to change; zero: never
}

// owner returns the one record that a cgroup UID belongs to, or nil. A mirror
// pod's cgroup UID is an annotation that whoever may create pods can write, so
// it never takes a UID from the pod whose own UID that is, and two mirror pods
// with the same one are both disbelieved.
func owner(claims []*record) *record {
	var mirror *record
	mirrors := 0
	for _, r := range claims {
		if !r.mirror {
			return r
		}
		mirror = r
		mirrors++
	}
	if mirrors != 1 {
		return nil
	}
	return mirror
}
