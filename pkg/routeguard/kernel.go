package routeguard

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
)

// written is what the kernel has of a table: enough to see that others have
// changed it.
type written struct {
	rules    map[string][]uint64 // the rules' handles by chain, which the kernel never gives twice
	elements map[string][]string // the sets' keys, sorted
}

// write makes the table of the kernel this one, in one transaction. Where one
// is there that cannot become this one, a table of another version's, it is
// replaced, in one transaction too.
func (t *table) write(conn *nftables.Conn) error {
	err := t.add(conn)
	if err == nil {
		err = conn.Flush()
	}
	if err == nil || !t.there(conn) {
		return err
	}
	conn.DelTable(&t.Table)
	if err := t.add(conn); err != nil {
		return err
	}
	return conn.Flush()
}

// there reports whether the kernel has a table of this name.
func (t *table) there(conn *nftables.Conn) bool {
	_, err := conn.ListTableOfFamily(t.Name, t.Family)
	return err == nil
}

// read returns what the kernel has of the table. It fails where a part of the
// table is missing.
func (t *table) read(conn *nftables.Conn) (written, error) {
	w := written{rules: make(map[string][]uint64), elements: make(map[string][]string)}
	for _, c := range t.chains() {
		rules, err := conn.GetRules(&t.Table, c)
		if err != nil {
			return w, fmt.Errorf("read the rules of chain %s: %w", c.Name, err)
		}
		for _, r := range rules {
			w.rules[c.Name] = append(w.rules[c.Name], r.Handle)
		}
	}
	for _, s := range []service{imds, wireServer} {
		for _, set := range []*nftables.Set{t.linkSet(s), t.stampSet(s)} {
			elements, err := conn.GetSetElements(set)
			if err != nil {
				return w, fmt.Errorf("read the set %s: %w", set.Name, err)
			}
			w.elements[set.Name] = keys(elements)
		}
	}
	return w, nil
}

func keys(elements []nftables.SetElement) (all []string) {
	for _, e := range elements {
		all = append(all, string(e.Key))
	}
	slices.Sort(all)
	return all
}
