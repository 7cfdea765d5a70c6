package imdspath

import (
	"path"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// readings returns the request target as different servers, proxies and
// frameworks would understand it, whatever they do to it and in whichever
// order. The steps are written apart from the code under test, with other
// means. Only the first maxReadings are looked at.
func readings(target string) []string {
	known := map[string]bool{target: true}
	all := []string{target}
	for i := 0; i < len(all) && len(all) < maxReadings; i++ {
		for _, step := range steps {
			for _, next := range step(all[i]) {
				if !known[next] {
					known[next] = true
					all = append(all, next)
				}
			}
		}
	}
	return all
}

const maxReadings = 3000

// opensIdentity returns the reading by which the target is a path under
// /metadata/identity.
func opensIdentity(target string) (reading string, opens bool) {
	for _, r := range readings(target) {
		if r == "/metadata/identity" || strings.HasPrefix(r, "/metadata/identity/") {
			return r, true
		}
	}
	return "", false
}

// steps are what some server does to a request target. Each returns one
// reading or more.
var steps = []func(string) []string{
	one(strings.ToLower),
	one(func(s string) string { return strings.ReplaceAll(s, `\`, "/") }),
	one(percentDecoded),
	one(unicodeDecoded), // IIS
	one(func(s string) string { return strings.ReplaceAll(s, "+", " ") }),
	one(overlongDecoded),
	one(compatible), // normalisation
	one(bestFit),    // conversion to a code page
	one(truncated),  // conversion to bytes
	one(func(s string) string { return path.Clean("/" + s) }),
	one(func(s string) string { return dotSegments.ReplaceAllString(s, "/") }),
	one(func(s string) string { return slashes.ReplaceAllString(s, "/") }),
	one(func(s string) string { return upTo(s, "?") }),
	one(func(s string) string { return upTo(s, "#") }),
	one(func(s string) string { return upTo(s, "\x00") }),
	one(func(s string) string { return scheme.ReplaceAllString(s, "") }),
	one(func(s string) string { return authority.ReplaceAllString(s, "/") }),
	one(func(s string) string { return eachSegment(s, func(s string) string { return upTo(s, ";") }) }),
	one(func(s string) string { return eachSegment(s, windowsName) }),
	one(func(s string) string { return eachSegment(s, strings.TrimSpace) }),
	one(strings.TrimSpace),
	one(func(s string) string { return removed(s, unicode.IsControl) }), // WHATWG and others
	one(func(s string) string { return removed(s, unicode.IsSpace) }),
	one(func(s string) string { return removed(s, ignorable) }),
	afterQuestionMark,
}

func one(step func(string) string) func(string) []string {
	return func(s string) []string { return []string{step(s)} }
}

var (
	dotSegments = regexp.MustCompile(`/\.(/|$)|/[^/]*/\.\.(/|$)`)
	slashes     = regexp.MustCompile(`/+`)
	scheme      = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:`)
	authority   = regexp.MustCompile(`^//[^/?#\\]*/?`)
	escape      = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)
	longEscape  = regexp.MustCompile(`(?:%|\\)[uU]([0-9A-Fa-f]{4})`)
)

func upTo(s, end string) string {
	before, _, _ := strings.Cut(s, end)
	return before
}

func eachSegment(s string, read func(string) string) string {
	segments := strings.Split(s, "/")
	for i := range segments {
		segments[i] = read(segments[i])
	}
	return strings.Join(segments, "/")
}

// windowsName is a file's name without what Windows cuts off: streams, and
// dots and blanks at the end.
func windowsName(s string) string {
	if s == "." || s == ".." {
		return s
	}
	return strings.TrimRight(upTo(s, ":"), ". \t")
}

// afterQuestionMark returns the query, and each of its values, as a path: for
// servers that rewrite one to the other.
func afterQuestionMark(s string) []string {
	_, query, _ := strings.Cut(s, "?")
	all := []string{query}
	for _, pair := range strings.FieldsFunc(query, func(r rune) bool { return r == '&' || r == ';' }) {
		if _, value, ok := strings.Cut(pair, "="); ok {
			all = append(all, value)
		}
	}
	return all
}

func percentDecoded(s string) string {
	return escape.ReplaceAllStringFunc(s, func(e string) string {
		b, err := strconv.ParseUint(e[1:], 16, 8)
		if err != nil {
			return e
		}
		return string([]byte{byte(b)})
	})
}

func unicodeDecoded(s string) string {
	return longEscape.ReplaceAllStringFunc(s, func(e string) string {
		r, err := strconv.ParseUint(e[2:], 16, 16)
		if err != nil {
			return e
		}
		return string(rune(r))
	})
}

// overlongDecoded reads UTF-8 as decoders do that accept ASCII spelt with two
// to four bytes.
func overlongDecoded(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := lenient(s[i:])
		if n > 1 && r < utf8.RuneSelf {
			b.WriteByte(byte(r))
		} else {
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

func lenient(s string) (r rune, n int) {
	switch c := s[0]; {
	case c&0xe0 == 0xc0:
		r, n = rune(c&0x1f), 2
	case c&0xf0 == 0xe0:
		r, n = rune(c&0x0f), 3
	case c&0xf8 == 0xf0:
		r, n = rune(c&0x07), 4
	default:
		return rune(c), 1
	}
	if len(s) < n {
		return rune(s[0]), 1
	}
	for _, c := range []byte(s[1:n]) {
		r = r<<6 | rune(c&0x3f)
	}
	return r, n
}

func eachRune(s string, read func(rune) rune) string {
	if !utf8.ValidString(s) {
		return s
	}
	return strings.Map(read, s)
}

// compatible maps what Unicode calls compatible with ASCII (NFKC), the ranges
// that matter here.
func compatible(s string) string {
	return eachRune(s, func(r rune) rune {
		switch {
		case 0xff01 <= r && r <= 0xff5e: // full width
			return r - 0xff01 + '!'
		case 0x1d400 <= r && r <= 0x1d6a3: // mathematical, without the holes
			n := (r - 0x1d400) % 52
			if n < 26 {
				return 'A' + n
			}
			return 'a' + n - 26
		case 0x24b6 <= r && r <= 0x24cf: // circled
			return r - 0x24b6 + 'A'
		case 0x24d0 <= r && r <= 0x24e9:
			return r - 0x24d0 + 'a'
		case r == 0x2170, r == 0x2071, r == 0x2148:
			return 'i'
		case r == 0xfe52, r == 0x2024:
			return '.'
		case r == 0xfe68:
			return '\\'
		case r == 0x212a, r == 0x017f: // simple case folding: Kelvin sign, long s
			return unicode.ToLower(unicode.ToUpper(r))
		}
		return r
	})
}

// bestFit maps what code page conversions map to ASCII for its looks.
func bestFit(s string) string {
	return eachRune(s, func(r rune) rune {
		switch r {
		case 0x2044, 0x2215, 0x29f8, 0x2571, 0x2f03, 0x0338, 0x3033:
			return '/'
		case 0x2216, 0x29f5, 0x29f9, 0x20e5, 0x5c01, 0x00a5, 0x20a9:
			return '\\'
		case 0x3002, 0xff61, 0x00b7, 0x2022:
			return '.'
		case 0x0131, 0x0130, 0x00ec, 0x00ed, 0x00ee, 0x00ef, 0x0456, 0x0406:
			return 'i'
		case 0x0435, 0x00e8, 0x00e9:
			return 'e'
		case 0x0430, 0x00e0, 0x00e1:
			return 'a'
		}
		return r
	})
}

// truncated keeps the low byte of each character.
func truncated(s string) string {
	return eachRune(s, func(r rune) rune {
		if low := r & 0xff; low < utf8.RuneSelf {
			return low
		}
		return r
	})
}

func removed(s string, drop func(rune) bool) string {
	return eachRune(s, func(r rune) rune {
		if drop(r) {
			return -1
		}
		return r
	})
}

// ignorable reports whether Unicode has the character ignored (soft hyphen,
// joiners, byte order mark).
func ignorable(r rune) bool {
	return r == 0x00ad || r == 0xfeff || 0x200b <= r && r <= 0x200f || 0x2060 <= r && r <= 0x2064
}
