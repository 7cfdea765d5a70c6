// Pins azidentity 1.5.2, a client whose requests are recorded.
module github.com/sidestep-agent/sidestep/test/clients/go/azidentity-1.5.2

go 1.26.0

require (
	github.com/Azure/azure-sdk-for-go/sdk/azcore v1.11.0
	github.com/Azure/azure-sdk-for-go/sdk/azidentity v1.5.2
	github.com/sidestep-agent/sidestep/test/clients/go/client v0.0.0
)

require (
	github.com/Azure/azure-sdk-for-go/sdk/internal v1.5.2 // indirect
	github.com/AzureAD/microsoft-authentication-library-for-go v1.2.2 // indirect
	github.com/golang-jwt/jwt/v5 v5.2.1 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/kylelemons/godebug v1.1.0 // indirect
	github.com/pkg/browser v0.0.0-20240102092130-5ac0b6a4141c // indirect
	golang.org/x/crypto v0.21.0 // indirect
	golang.org/x/net v0.22.0 // indirect
	golang.org/x/sys v0.18.0 // indirect
	golang.org/x/text v0.14.0 // indirect
)

replace github.com/sidestep-agent/sidestep/test/clients/go/client => ../client
