package config

import (
	"fmt"
	"strings"
)

// fix returns what to do about a name that is not among the known ones.
func fix(got string, known []string) string {
	if best := Nearest(got, known, 2); best != "" { // more than two slips is another word
		return fmt.Sprintf("did you mean %q?", best)
	}
	return "remove it; known here are " + strings.Join(known, ", ")
}

// Nearest returns which of the known names somebody meant who wrote another;
// empty if in none of them at most that many letters differ. Case does not
// count.
func Nearest(got string, known []string, most int) string {
	best, least := "", most+1
	for _, k := range known {
		if d := distance(strings.ToLower(got), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance returns how many letters must be added, dropped or changed to make
// b out of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
