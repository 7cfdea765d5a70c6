package commands

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// maxReadable is how much of a credential's name tells whose it is. With the
// sum behind it the name stays within the 3 to 120 letters, digits, dashes and
// underscores that Entra takes.
const maxReadable = 100

// CredentialName returns a name for the federated credential of a service
// account that says whose it is, and that no other issuer and subject has: to
// create a credential of a name that is taken is to replace it.
func CredentialName(namespace, account, issuer, subject string) string {
	sum := sha256.Sum256([]byte(issuer + "\x00" + subject))
	name := strings.ReplaceAll(namespace+"-"+account, ".", "-")
	if len(name) > maxReadable {
		name = name[:maxReadable]
	}
	return fmt.Sprintf("%s-%x", name, sum[:4])
}
