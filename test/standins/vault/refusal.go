package vault

import (
	"fmt"
	"net/http"

	"github.com/sidestep-agent/sidestep/test/standins/accesstoken"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
)

// refusal is an error in Key Vault's form and words.
// https://learn.microsoft.com/azure/key-vault/general/rest-error-codes
type refusal struct {
	status  int
	code    string
	message string
	inner   string // innererror.code; may be empty
	cause   string // for the log only
}

func (r *refusal) body() any {
	e := map[string]any{"code": r.code, "message": r.message}
	if r.inner != "" {
		e["innererror"] = map[string]string{"code": r.inner}
	}
	return map[string]any{"error": e}
}

func (r *refusal) innermost() string {
	if r.inner != "" {
		return r.inner
	}
	return r.code
}

func unauthorized(message string) *refusal {
	return &refusal{status: http.StatusUnauthorized, code: "Unauthorized", message: message}
}

func accessDenied(caller accesstoken.Claims, right federation.SecretsAction, vault string) *refusal {
	return &refusal{
		status: http.StatusForbidden, code: "Forbidden", inner: "AccessDenied",
		message: fmt.Sprintf("The user, group or application 'appid=%s;oid=%s;iss=%s' does not have secrets %s permission on key vault '%s;location=westeurope'. For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125287",
			caller.AppID, caller.ObjectID, caller.Issuer, right, vault),
	}
}

func secretNotFound(name string) *refusal {
	return &refusal{
		status: http.StatusNotFound, code: "SecretNotFound",
		message: fmt.Sprintf("A secret with (name/id) %s was not found in this key vault. If you recently deleted this secret you may be able to recover it using the correct recovery command. For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125182", name),
	}
}

func deletedButRecoverable(name string) *refusal {
	return &refusal{
		status: http.StatusConflict, code: "Conflict", inner: "ObjectIsDeletedButRecoverable",
		message: fmt.Sprintf("Secret %s is currently in a deleted but recoverable state, and its name cannot be reused; in this state, the secret can only be recovered or purged.", name),
	}
}

func badParameter(message string) *refusal {
	return &refusal{status: http.StatusBadRequest, code: "BadParameter", message: message}
}

func notFound() *refusal {
	return &refusal{status: http.StatusNotFound, code: "NotFound", message: "The requested resource was not found."}
}

// broken is the answer while the stand-in itself cannot tell.
func broken(cause error) *refusal {
	return &refusal{
		status: http.StatusInternalServerError, code: "InternalServerError",
		message: "An error has occurred.", cause: cause.Error(),
	}
}
