package imdspath

import "strings"

// maxDecodings bounds how often a path is percent-decoded. No client encodes
// more than twice; what has not settled by then is no honest request.
const maxDecodings = 8

// Raw returns the path of a request target (RFC 9112, section 3.2) with
// nothing decoded; empty for a target without one, as in "OPTIONS *".
func Raw(target string) string {
	if !strings.HasPrefix(target, "/") {
		_, rest, _ := strings.Cut(target, "://")
		slash := strings.IndexAny(rest, "/?")
		if slash < 0 {
			return ""
		}
		target = rest[slash:]
	}
	path, _, _ := strings.Cut(target, "?")
	return path
}

// IsToken reports whether a raw path is that of the token endpoint, in one of
// the spellings that real clients use.
func IsToken(path string) bool { return Loose(path) == Token }

// Loose returns the path in lower case, with repeated and trailing slashes
// taken out: the differences in spelling that real clients make.
func Loose(path string) string {
	if path == Token || !strings.HasPrefix(path, "/") {
		return path
	}
	return join(strings.Split(strings.ToLower(path), "/"))
}

// clean returns the path as the most lenient of servers would read it: in
// lower case, percent-decoded until nothing changes, a backslash taken for a
// slash, parameters (";x") cut off, empty and dot segments resolved. It
// returns false if the decoding has no end.
func clean(path string) (string, bool) {
	for range maxDecodings {
		decoded := decode(path)
		if decoded == path {
			return resolve(path), true
		}
		path = decoded
	}
	return "", false
}

// decode returns the path with each valid percent-encoding in it decoded once.
func decode(path string) string {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && i+2 < len(path) && isHex(path[i+1]) && isHex(path[i+2]) {
			b.WriteByte(unhex(path[i+1])<<4 | unhex(path[i+2]))
			i += 2
			continue
		}
		b.WriteByte(path[i])
	}
	return b.String()
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f'
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}

// resolve does all of clean but the decoding.
func resolve(path string) string {
	path = strings.ReplaceAll(strings.ToLower(path), `\`, "/")
	var segments []string
	for segment := range strings.SplitSeq(path, "/") {
		segment, _, _ = strings.Cut(segment, ";")
		switch segment {
		case ".":
		case "..":
			segments = segments[:max(0, len(segments)-1)]
		case "":
		default:
			segments = append(segments, segment)
		}
	}
	return join(segments)
}

// join returns an absolute path of the segments that are not empty.
func join(segments []string) string {
	var b strings.Builder
	for _, s := range segments {
		if s != "" {
			b.WriteString("/" + s)
		}
	}
	return b.String()
}

// plain reports whether every server reads the path in the same way: an
// absolute path of segments of letters, digits, "-", "_" and inner dots, with
// at most one slash between and behind them.
func plain(path string) bool {
	rest, ok := strings.CutPrefix(path, "/")
	if !ok {
		return false
	}
	for segment := range strings.SplitSeq(strings.TrimSuffix(rest, "/"), "/") {
		if !PlainSegment(segment) {
			return false
		}
	}
	return true
}

// PlainSegment reports whether every server reads the text as one and the same
// segment of a path.
func PlainSegment(s string) bool {
	if s == "" || s[0] == '.' || s[len(s)-1] == '.' {
		return false
	}
	return consistsOf(s, "-_.")
}

// consistsOf reports whether s has no bytes but ASCII letters, digits and those
// of others.
func consistsOf(s, others string) bool {
	for _, c := range []byte(s) {
		letter, digit := 'a' <= c|0x20 && c|0x20 <= 'z', '0' <= c && c <= '9'
		if !letter && !digit && strings.IndexByte(others, c) < 0 {
			return false
		}
	}
	return true
}
