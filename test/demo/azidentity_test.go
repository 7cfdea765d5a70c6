package main

import "testing"

func TestSDKFailure(t *testing.T) {
	tests := []struct {
		name, message, want string
		refused             bool
	}{
		{
			"EPERM", `ManagedIdentityCredential: Get "http://169.254.169.254/metadata/identity/oauth2/token": dial tcp 169.254.169.254:80: connect: operation not permitted. To troubleshoot, visit https://aka.ms/azsdk/go/identity/troubleshoot#managed-id`,
			"operation not permitted", true,
		},
		{
			"an answer", `ManagedIdentityCredential: failed to authenticate a system assigned identity. The endpoint responded with {"error":"invalid_request","error_description":"Identity not found"}`,
			"Identity not found", false,
		},
		{"something else", "context deadline exceeded", "context deadline exceeded", false},
	}
	for _, tt := range tests {
		if got, refused := sdkFailure(tt.message); got != tt.want || refused != tt.refused {
			t.Errorf("%s: %q, refused %t, want %q, %t", tt.name, got, refused, tt.want, tt.refused)
		}
	}
}
