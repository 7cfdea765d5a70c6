package entra

import "testing"

func TestMayReceive(t *testing.T) {
	tests := []struct {
		authority, endpoint string
		want                bool
	}{
		{"https://127.0.0.1:8443", "https://127.0.0.1:8443/t/oauth2/v2.0/token", true},
		{"https://127.0.0.1:8443", "https://127.0.0.1:8444/t/oauth2/v2.0/token", false},
		{"https://evil.example", "http://169.254.169.254/metadata", false},
		{"https://evil.example", "http://evil.example/token", false},
		{"https://evil.example", "https://login.microsoftonline.com/t/oauth2/v2.0/token", false},
		{"https://login.microsoftonline.com", "https://evil.example/t", false},
		{"https://login.chinacloudapi.cn", "https://login.partner.microsoftonline.cn/t/oauth2/v2.0/token", true},
	}
	for _, tt := range tests {
		if got := mayReceive(tt.authority, tt.endpoint); got != tt.want {
			t.Errorf("mayReceive(%s, %s) = %v", tt.authority, tt.endpoint, got)
		}
	}
}
