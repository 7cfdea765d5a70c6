package listwatch

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// pause is how long a reflector waits before it asks again: 3 to 6 s at most,
// where client-go's own waits up to a minute. A new pod that asks is held for
// 25 s, and an API server that comes back may refuse once more: it answers
// before it knows who may do what.
var pause = wait.Backoff{Duration: 800 * time.Millisecond, Factor: 2, Jitter: 1, Cap: 3 * time.Second, Steps: 10}

// Keep keeps store up to date until ctx is done, with objects such as example
// that lw gets from client. It may return later than that.
func Keep(ctx context.Context, store cache.ReflectorStore, name string, lw *cache.ListWatch, client any, example runtime.Object) {
	// lw tells what fails; the reflector's own lines go nowhere.
	silent := klog.Logger{}
	r := cache.NewReflectorWithOptions(
		cache.ToListWatcherWithWatchListSemantics(lw, client), example, store,
		cache.ReflectorOptions{Name: name, Logger: &silent, Backoff: &pause})
	r.RunWithContext(klog.NewContext(ctx, silent))
}

// New returns the two calls of a reflector, limited to what selector
// matches. It hands their errors to failed.
func New[L runtime.Object](
	selector fields.Selector, failed func(context.Context, error), list Call[L], watches Call[watch.Interface],
) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector.String()
			l, err := list(ctx, o)
			if err != nil {
				failed(ctx, err)
				return nil, err
			}
			return l, nil
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector.String()
			w, err := watches(ctx, o)
			if err != nil {
				failed(ctx, err)
			}
			return w, err
		},
	}
}

// Uncached returns next, with each list coming from etcd and not from the API server's cache.
func Uncached[T any](next Call[T]) Call[T] {
	return func(ctx context.Context, o metav1.ListOptions) (T, error) {
		if o.ResourceVersion == "0" {
			o.ResourceVersion = ""
		}
		return next(ctx, o)
	}
}
