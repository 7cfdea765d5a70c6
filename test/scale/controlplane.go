package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Who asks. The agents are the service account of the manifests, so that RBAC,
// and the apiserver's fair queues, treat them as they would in a cluster.
const (
	adminToken = "admin-token"
	agentToken = "agent-token"
	agentUser  = "system:serviceaccount:sidestep-system:sidestep-agent"
	users      = adminToken + ",admin,1,system:masters\n" +
		agentToken + "," + agentUser + ",2,\"system:serviceaccounts,system:serviceaccounts:sidestep-system,system:authenticated\"\n"
)

// auditPolicy has every request of the agents written down with its query.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- {level: Metadata, users: ["` + agentUser + `"], verbs: [watch], omitStages: [RequestReceived, ResponseComplete]}
- {level: Metadata, users: ["` + agentUser + `"], omitStages: [RequestReceived, ResponseStarted]}
- {level: None}
`

// controlPlane is an etcd and a kube-apiserver on loopback.
type controlPlane struct {
	bin, dir  string
	etcdPort  int
	apiPort   int
	etcd, api *process
	admin     *kubernetes.Clientset
}

// startControlPlane starts both and applies what the agents may do. The caller
// calls stop.
func startControlPlane(ctx context.Context, bin, dir, rbac string) (_ *controlPlane, err error) {
	c := &controlPlane{bin: bin, dir: dir}
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	if err := c.prepare(); err != nil {
		return nil, err
	}
	at := fmt.Sprintf("http://127.0.0.1:%d", c.etcdPort)
	peer, err := freePort()
	if err != nil {
		return nil, err
	}
	peers := fmt.Sprintf("http://127.0.0.1:%d", peer)
	c.etcd, err = startProcess(bin, dir, "etcd", "--data-dir", filepath.Join(dir, "etcd"), "--unsafe-no-fsync",
		"--quota-backend-bytes", strconv.Itoa(6<<30),
		"--listen-client-urls", at, "--advertise-client-urls", at,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers)
	if err != nil {
		return nil, err
	}
	if c.admin, err = kubernetes.NewForConfig(c.config(adminToken, -1)); err != nil {
		return nil, err
	}
	if err := c.startAPI(ctx); err != nil {
		return nil, err
	}
	return c, c.apply(ctx, rbac)
}

// prepare writes what the apiserver reads.
func (c *controlPlane) prepare() (err error) {
	if c.etcdPort, err = freePort(); err != nil {
		return err
	}
	if c.apiPort, err = freePort(); err != nil {
		return err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	for name, content := range map[string]string{
		"accounts.key": string(block), "users.csv": users, "audit.yaml": auditPolicy,
	} {
		if err := os.WriteFile(filepath.Join(c.dir, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// startAPI starts the apiserver and returns once it is ready.
func (c *controlPlane) startAPI(ctx context.Context) (err error) {
	in := func(name string) string { return filepath.Join(c.dir, name) }
	c.api, err = startProcess(c.bin, c.dir, "kube-apiserver",
		fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", c.etcdPort),
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", c.apiPort), "--cert-dir="+in("certificates"),
		"--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.0.0.0/24",
		"--authorization-mode=RBAC", "--token-auth-file="+in("users.csv"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+in("accounts.key"), "--service-account-signing-key-file="+in("accounts.key"),
		"--audit-policy-file="+in("audit.yaml"), "--audit-log-path="+in("audit.log"), "--audit-log-mode=batch")
	if err != nil {
		return err
	}
	err = c.api.await(ctx, func() error {
		return c.admin.CoreV1().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
	if err != nil {
		return fmt.Errorf("kube-apiserver: %w", err)
	}
	return nil
}

// config returns how to reach the apiserver as whom; qps as in rest.Config.
func (c *controlPlane) config(token string, qps float32) *rest.Config {
	return &rest.Config{
		Host: fmt.Sprintf("https://127.0.0.1:%d", c.apiPort), BearerToken: token,
		// Its certificate is made at its first start, by itself, for loopback.
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
		QPS:             qps, Burst: int(2 * qps),
		ContentConfig: rest.ContentConfig{
			ContentType:        "application/vnd.kubernetes.protobuf",
			AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json",
		},
	}
}

// apply has kubectl apply manifests.
func (c *controlPlane) apply(ctx context.Context, files string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "kubectl"), "apply", "--server-side", "--insecure-skip-tls-verify",
		"--server", fmt.Sprintf("https://127.0.0.1:%d", c.apiPort), "--token", adminToken, "-f", files)
	cmd.Env = append(os.Environ(), "KUBECONFIG=/dev/null", "KUBECACHEDIR="+filepath.Join(c.dir, "kubectl"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply: %w: %s", err, out)
	}
	return nil
}

func (c *controlPlane) stop() {
	for _, p := range []*process{c.api, c.etcd} {
		if p != nil {
			p.kill()
		}
	}
}
