// Package autoscaler puts the cases of tests/operator/simulation/hpa_cases.yaml to Kubernetes' own
// HorizontalPodAutoscaler controller, so that what Easel's simulator emulates is what the controller does. It runs with
// its queue, informers and memory, on a clock that is simulated.
package autoscaler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	scalefake "k8s.io/client-go/scale/fake"
	clienttesting "k8s.io/client-go/testing"
	defaults "k8s.io/kubernetes/pkg/apis/autoscaling/v2"
	"k8s.io/kubernetes/pkg/controller/podautoscaler"
	"k8s.io/kubernetes/pkg/controller/podautoscaler/metrics"
	_ "k8s.io/kubernetes/pkg/features"
	"sigs.k8s.io/yaml"
)

const (
	casesFile = "../../../tests/operator/simulation/hpa_cases.yaml"
	// Names another file; tests/operator/simulation/test_hpa_against_kubernetes.py draws cases by chance.
	casesVariable = "EASEL_HPA_CASES"
	namespace     = "default"
	targetName    = "target"
	podMetric     = "busy"
	// The controller looks when the object's generation changes; its own period must not add looks between.
	never      = 1000 * time.Hour
	thisMinor  = 37
	zeroMinor  = 37 // HPAScaleToZero is on by default from here
	firstMinor = 35 // HPAConfigurableTolerance is locked on in this release, so older ones can't be put to it
)

type pod struct {
	Value   *string
	Phase   string
	Ready   *bool
	Deleted bool
}

type tick struct {
	At              int
	Replicas        *int32
	Status          *int32
	Ready           *int32
	External        map[string]*string
	Pods            []pod
	Spec            map[string]any
	Expect          int32
	Reason, Limited string
}

type testCase struct {
	Kubernetes int
	Spec       map[string]any
	Ticks      []tick
}

// target is the scaled Deployment, its pods and its metrics, as the controller sees them.
type target struct {
	metrics.MetricsClient
	sync.Mutex
	replicas, status int32
	now              tick
}

func TestTheRealControllerDecidesAsTheCasesSay(t *testing.T) {
	if err := utilfeature.DefaultMutableFeatureGate.Set("StaleControllerConsistencyHPA=false"); err != nil {
		t.Fatal(err)
	}
	// The default handlers remember when they last logged, which is another time on each simulated clock.
	utilruntime.ErrorHandlers = nil
	for _, entry := range readCases(t) {
		for sentence, each := range entry {
			t.Run(sentence, func(t *testing.T) {
				minor := each.Kubernetes
				if minor == 0 {
					minor = thisMinor
				}
				if minor < firstMinor {
					t.Skipf("1.%d differs in a gate that this release has locked", minor)
				}
				gate := fmt.Sprintf("HPAScaleToZero=%t", minor >= zeroMinor)
				if err := utilfeature.DefaultMutableFeatureGate.Set(gate); err != nil {
					t.Fatal(err)
				}
				synctest.Test(t, func(t *testing.T) { run(t, each) })
			})
		}
	}
}

func run(t *testing.T, each testCase) {
	ctx, cancel := context.WithCancel(context.Background())
	client := fake.NewClientset()
	factory := informers.NewSharedInformerFactory(client, 0)
	state := &target{}
	pods := factory.Core().V1().Pods()
	controller := podautoscaler.NewHorizontalController(ctx, client.CoreV1(), state.scaleClient(),
		client.AutoscalingV2(), mapper(), state, factory.Autoscaling().V2().HorizontalPodAutoscalers(), pods,
		never, 5*time.Minute, 0.1, 5*time.Minute, 30*time.Second)
	store := pods.Informer().GetStore()
	factory.Start(ctx.Done())
	stopped := make(chan struct{})
	go func() { controller.Run(ctx, 1); close(stopped) }()
	defer func() {
		cancel()
		<-stopped
		factory.Shutdown()
	}()
	time.Sleep(10 * time.Second) // until the caches are synced
	begin := time.Now()
	autoscalers := client.AutoscalingV2().HorizontalPodAutoscalers(namespace)
	for index, now := range each.Ticks {
		time.Sleep(time.Until(begin.Add(time.Duration(now.At) * time.Second)))
		state.set(now)
		if err := store.Replace(state.pods(), ""); err != nil {
			t.Fatal(err)
		}
		hpa := buildAutoscaler(t, each.Spec, now.Spec)
		hpa.Generation = int64(index + 1)
		var err error
		if index == 0 {
			_, err = autoscalers.Create(ctx, hpa, metav1.CreateOptions{})
		} else {
			var latest *autoscalingv2.HorizontalPodAutoscaler
			if latest, err = autoscalers.Get(ctx, targetName, metav1.GetOptions{}); err == nil {
				hpa.Status = latest.Status
				_, err = autoscalers.Update(ctx, hpa, metav1.UpdateOptions{})
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		found, err := autoscalers.Get(ctx, targetName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		check(t, now, state.replicas, found)
	}
}

func check(t *testing.T, now tick, replicas int32, hpa *autoscalingv2.HorizontalPodAutoscaler) {
	t.Helper()
	if replicas != now.Expect {
		t.Errorf("at %d s: %d replicas, the case says %d; %+v", now.At, replicas, now.Expect, hpa.Status.Conditions)
	}
	active, limited := reason(hpa, autoscalingv2.ScalingActive), reason(hpa, autoscalingv2.ScalingLimited)
	switch now.Reason {
	case "", "AboveMaximum", "BelowMinimum": // the controller says these in an event only
	case "FailedGetMetric":
		if !strings.HasPrefix(active, "FailedGet") {
			t.Errorf("at %d s: ScalingActive is %s, the case says %s", now.At, active, now.Reason)
		}
	default:
		if active != now.Reason {
			t.Errorf("at %d s: ScalingActive is %s, the case says %s", now.At, active, now.Reason)
		}
	}
	if now.Limited != "" && limited != now.Limited {
		t.Errorf("at %d s: ScalingLimited is %s, the case says %s", now.At, limited, now.Limited)
	}
}

func reason(hpa *autoscalingv2.HorizontalPodAutoscaler, kind autoscalingv2.HorizontalPodAutoscalerConditionType) string {
	for _, condition := range hpa.Status.Conditions {
		if condition.Type == kind {
			return condition.Reason
		}
	}
	return ""
}

func readCases(t *testing.T) []map[string]testCase {
	t.Helper()
	path := os.Getenv(casesVariable)
	if path == "" {
		path = casesFile
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var cases []map[string]testCase
	if err := yaml.UnmarshalStrict(content, &cases); err != nil {
		t.Fatal(err)
	}
	return cases
}

// buildAutoscaler writes out the short forms of a case's spec, and sets what the API server sets by default.
func buildAutoscaler(t *testing.T, spec, override map[string]any) *autoscalingv2.HorizontalPodAutoscaler {
	t.Helper()
	full := map[string]any{}
	for _, part := range []map[string]any{spec, override} {
		for key, value := range part {
			full[key] = value
		}
	}
	var sources []any
	external, _ := full["external"].(map[string]any)
	for name, goal := range external {
		goal := goal.(map[string]any)
		goal["type"] = "AverageValue"
		if _, isValue := goal["value"]; isValue {
			goal["type"] = "Value"
		}
		source := map[string]any{"metric": map[string]any{"name": name}, "target": goal}
		sources = append(sources, map[string]any{"type": "External", "external": source})
	}
	pods, _ := full["pods"].(map[string]any)
	for name, goal := range pods {
		goal := map[string]any{"type": "AverageValue", "averageValue": goal}
		source := map[string]any{"metric": map[string]any{"name": name}, "target": goal}
		sources = append(sources, map[string]any{"type": "Pods", "pods": source})
	}
	delete(full, "external")
	delete(full, "pods")
	full["metrics"] = sources
	full["scaleTargetRef"] = map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": targetName}
	encoded, err := json.Marshal(full)
	if err != nil {
		t.Fatal(err)
	}
	hpa := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: targetName, Namespace: namespace}}
	if err := json.Unmarshal(encoded, &hpa.Spec); err != nil {
		t.Fatal(err)
	}
	defaults.SetDefaults_HorizontalPodAutoscaler(hpa)
	return hpa
}

func mapper() meta.RESTMapper {
	apps := schema.GroupVersion{Group: "apps", Version: "v1"}
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{apps})
	mapper.Add(apps.WithKind("Deployment"), meta.RESTScopeNamespace)
	return mapper
}

func (s *target) set(now tick) {
	s.Lock()
	defer s.Unlock()
	s.now = now
	if now.Replicas != nil {
		s.replicas = *now.Replicas
	}
	s.status = s.replicas
	if now.Status != nil {
		s.status = *now.Status
	}
}

func (s *target) scaleClient() *scalefake.FakeScaleClient {
	client := &scalefake.FakeScaleClient{}
	client.AddReactor("get", "deployments", func(clienttesting.Action) (bool, runtime.Object, error) {
		s.Lock()
		defer s.Unlock()
		return true, &autoscalingv1.Scale{
			ObjectMeta: metav1.ObjectMeta{Name: targetName, Namespace: namespace},
			Spec:       autoscalingv1.ScaleSpec{Replicas: s.replicas},
			Status:     autoscalingv1.ScaleStatus{Replicas: s.status, Selector: "app=" + targetName},
		}, nil
	})
	client.AddReactor("update", "deployments", func(action clienttesting.Action) (bool, runtime.Object, error) {
		s.Lock()
		defer s.Unlock()
		scale := action.(clienttesting.UpdateAction).GetObject().(*autoscalingv1.Scale)
		s.replicas = scale.Spec.Replicas
		return true, scale, nil
	})
	return client
}

// pods are the case's own, or as many as the status says, of which the first are ready.
func (s *target) pods() []any {
	given := s.now.Pods
	if given == nil {
		ready := s.status
		if s.now.Ready != nil {
			ready = *s.now.Ready
		}
		for index := range s.status {
			isReady := index < ready
			given = append(given, pod{Ready: &isReady})
		}
	}
	var built []any
	for index, each := range given {
		built = append(built, buildPod(index, each))
	}
	return built
}

func buildPod(index int, given pod) *corev1.Pod {
	status := corev1.ConditionTrue
	if given.Ready != nil && !*given.Ready {
		status = corev1.ConditionFalse
	}
	built := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name:      fmt.Sprintf("pod-%d", index),
			Namespace: namespace,
			Labels:    map[string]string{"app": targetName},
		},
		Status: corev1.PodStatus{
			Phase:      corev1.PodRunning,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}},
		},
	}
	if given.Phase != "" {
		built.Status.Phase = corev1.PodPhase(given.Phase)
	}
	if given.Deleted {
		built.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	}
	return built
}

// GetExternalMetric answers with the case's value in thousandths.
func (s *target) GetExternalMetric(name, _ string, _ labels.Selector) ([]int64, time.Time, error) {
	s.Lock()
	defer s.Unlock()
	value := s.now.External[name]
	if value == nil {
		return nil, time.Time{}, errors.New("not available")
	}
	quantity := resource.MustParse(*value)
	return []int64{quantity.MilliValue()}, time.Now(), nil
}

// GetRawMetric answers with the values of the pods that report one.
func (s *target) GetRawMetric(name, _ string, _, _ labels.Selector) (metrics.PodMetricsInfo, time.Time, error) {
	s.Lock()
	defer s.Unlock()
	found := metrics.PodMetricsInfo{}
	for index, each := range s.now.Pods {
		if each.Value != nil && name == podMetric {
			quantity := resource.MustParse(*each.Value)
			found[fmt.Sprintf("pod-%d", index)] = metrics.PodMetric{Timestamp: time.Now(), Value: quantity.MilliValue()}
		}
	}
	return found, time.Now(), nil
}
