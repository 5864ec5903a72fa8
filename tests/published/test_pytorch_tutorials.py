"""What PyTorch's tutorials do, written anew with Foveal: layers, losses, loops, saving, fine-tuning, gradients."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import foveal
from foveal import data, metrics, nn, ops, optim, train
from foveal.errors import FovealWarning


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def images(rng):
    return rng.random((40, 1, 8, 8), np.float32)


@pytest.fixture
def labels(rng):
    return rng.integers(0, 3, 40)


@pytest.fixture
def net():
    nn.seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def test_arrays_are_made_by_numpy_and_enter_as_they_are():
    a = np.ones((4, 4), "float32")
    assert ops.exp(a).shape == (4, 4)


def test_indexing_and_slicing_as_in_numpy(rng):
    f = foveal.compile(lambda t: ops.concatenate([t[0][None], t[:, 0][None], t[..., -1][None]], axis=0))
    t = rng.standard_normal((4, 4)).astype("float32")
    assert np.array_equal(f(t), np.stack([t[0], t[:, 0], t[..., -1]]))


def test_matrix_products(rng):
    f = foveal.compile(lambda t: t @ t.T)
    t = rng.standard_normal((4, 5)).astype("float32")
    np.testing.assert_allclose(f(t), t @ t.T, rtol=1e-5, atol=1e-5)


def test_elementwise_products_and_powers():
    f = foveal.compile(lambda t: t * t + t**3)
    np.testing.assert_allclose(f(np.float32([2, 3])), [12, 36])


def test_an_aggregate_as_a_number():
    total = ops.sum(np.ones((4, 4), "float32"))
    assert float(total) == 16.0
    assert total.item() == 16.0


def test_concatenate_and_stack():
    f = foveal.compile(lambda t: (ops.concatenate([t, t], axis=1), ops.stack([t, t])))
    one, two = f(np.ones((4, 4), "float32"))
    assert one.shape == (4, 8)
    assert two.shape == (2, 4, 4)


def test_a_view_of_another_shape():
    f = foveal.compile(lambda t: t.reshape(2, -1).reshape(-1))
    assert f(np.ones((4, 4), "float32")).shape == (16,)


def test_the_class_with_the_largest_logit():
    f = foveal.compile(lambda t: ops.argmax(t, axis=1))
    assert f(np.float32([[1, 3, 2], [5, 0, 1]])).tolist() == [1, 0]


def test_probabilities_by_softmax():
    assert np.allclose(nn.Softmax(dim=1)(np.ones((2, 5), "float32")), 0.2)


def test_a_loader_over_arrays(images, labels):
    loader = data.Loader(images, labels, batch_size=16, shuffle=True)
    x, y = next(iter(loader))
    assert x.shape == (16, 1, 8, 8)
    assert y.shape == (16,)


def test_a_loader_over_a_data_set_of_ones_own(images, labels):
    class Mine:
        def __len__(self):
            return 40

        def __getitem__(self, i):
            return images[i], int(labels[i])

    assert [len(y) for x, y in data.Loader(Mine(), batch_size=16)] == [16, 16, 8]


def test_random_crops_and_flips(images, labels):
    loader = data.Loader(images, labels, batch_size=16, augment=data.augmentation("crop+flip", (8, 8)))
    assert next(iter(loader))[0].shape == (16, 1, 8, 8)


def test_a_network_of_ones_own(images):
    class NeuralNetwork(nn.Module):
        def __init__(self):
            super().__init__()
            self.flatten = nn.Flatten()
            self.stack = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

        def forward(self, x):
            return self.stack(self.flatten(x))

    assert NeuralNetwork()(images[:3]).shape == (3, 10)


def test_lenet_as_the_tutorial_writes_it(images):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(1, 6, 3)
            self.pool = nn.MaxPool2d(2, 2)
            self.fc1 = nn.Linear(6 * 3 * 3, 10)

        def forward(self, x):
            x = self.pool(ops.relu(self.conv1(x)))
            x = x.reshape(x.shape[0], -1)
            return self.fc1(x)

    assert Net()(images[:3]).shape == (3, 10)


def test_named_parameters_and_their_sizes(net):
    assert next((n, p.shape) for n, p in net.named_parameters()) == ("0.weight", (4, 1, 3, 3))
    assert sum(p.size for p in net.parameters()) == 4 * 9 + 4 + 144 * 3 + 3


def test_a_residual_block(images):
    class Block(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)

        def forward(self, x):
            return ops.relu(self.bn1(self.conv1(x)) + x)

    assert Block(1)(images[:2]).shape == (2, 1, 8, 8)


def test_layers_in_a_list(images):
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(64, 64) for _ in range(3)])

        def forward(self, x):
            for layer in self.layers:
                x = ops.tanh(layer(x))
            return x

    assert len(Deep().layers) == 3
    assert Deep()(images[:2].reshape(2, 64)).shape == (2, 64)


def test_a_generator_of_transposed_convolutions(rng):
    g = nn.Sequential(
        nn.ConvTranspose2d(10, 8, 4, 1, 0, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(True),
        nn.ConvTranspose2d(8, 1, 4, 2, 1, bias=False),
        nn.Tanh(),
    )
    assert g(rng.standard_normal((2, 10, 1, 1)).astype("float32")).shape == (2, 1, 8, 8)


def test_two_inputs_and_two_outputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(5, 4)

        def forward(self, x, y):
            z = self.a(x) + self.b(y)
            return z, z.sum(axis=1)

    z, s = Two()(np.ones((2, 3), "float32"), np.ones((2, 5), "float32"))
    assert z.shape == (2, 4)
    assert s.shape == (2,)


def test_starting_values_by_apply(net):
    def init_weights(m):
        if isinstance(m, nn.Linear):
            m.bias.data = np.full(m.bias.shape, 0.01)

    net.apply(init_weights)
    assert np.allclose(net[3].bias.data, 0.01)


def test_the_gradient_of_a_function():
    g = foveal.grad(lambda x: ops.sum(x**2))
    assert np.allclose(g(np.float32([1, 2, 3])), [2, 4, 6])


def test_the_gradients_in_weights_and_bias(rng):
    w, b = nn.Parameter(rng.standard_normal((5, 3))), nn.Parameter(rng.standard_normal(3))

    def loss(x, y):
        return nn.BCEWithLogitsLoss()(x @ w + b, y)

    _value, (dw, db) = foveal.value_and_grad(loss, wrt=[w, b])(np.ones((1, 5), "float32"), np.zeros((1, 3), "float32"))
    assert dw.shape == (5, 3)
    assert db.shape == (3,)


def test_the_gradients_of_all_parameters(net, images, labels):
    def loss(x, y):
        return nn.CrossEntropyLoss()(net(x), y)

    _value, grads = foveal.value_and_grad(loss, wrt=dict(net.named_parameters()))(images[:4], labels[:4])
    assert grads["3.bias"].shape == (3,)


def test_the_gradient_in_the_image_fast_gradient_sign(net, images, labels):
    def loss(x, y):
        return nn.CrossEntropyLoss()(net(x), y)

    perturbed = np.clip(images[:4] + 0.1 * np.sign(foveal.grad(loss)(images[:4], labels[:4])), 0, 1)
    assert perturbed.shape == (4, 1, 8, 8)


def test_second_derivatives():
    def f(x):
        return ops.sum(ops.sin(x))

    assert np.allclose(foveal.grad(lambda x: ops.sum(foveal.grad(f)(x)))(np.float32([0.5])), -np.sin(0.5))


def test_a_check_of_gradients(rng):
    assert foveal.gradcheck(nn.Linear(4, 2), rng.standard_normal((3, 4)))


def test_no_gradient_for_part_of_a_network(net, images, labels):
    for p in net[0].parameters():
        p.requires_grad = False
    before = net[0].weight.data.copy()
    foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1))(images[:4], labels[:4])
    assert np.array_equal(before, net[0].weight.data)


def test_a_training_step(net, images, labels):
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=1e-1))
    first = step(images, labels).loss
    for _ in range(20):
        last = step(images, labels).loss
    assert last < first


def test_an_epoch_with_running_loss(net, images, labels):
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.Momentum(net.parameters(), lr=0.01, momentum=0.9))
    running = 0.0
    for inputs, targets in data.Loader(images, labels, batch_size=20, shuffle=True):
        running += step(inputs, targets).loss
    assert running > 0


def test_a_test_loop(net, images, labels):
    net.eval()
    correct = sum((net(x).argmax(1) == y).sum() for x, y in data.Loader(images, labels, batch_size=20))
    assert 0 <= correct <= 40


def test_adam_with_weight_decay(net, images, labels):
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-2))
    assert np.isfinite(step(images, labels).loss)


def test_groups_of_parameters(net, images, labels):
    groups = [{"params": net[0].parameters(), "lr_factor": 0.1}, {"params": net[3].parameters()}]
    first, last = net[0].weight.data.copy(), net[3].weight.data.copy()
    gradient = foveal.grad(lambda x, y: nn.CrossEntropyLoss()(net(x), y), wrt=[net[0].weight, net[3].weight])
    dw, dv = gradient(images, labels)
    foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(groups, lr=0.1))(images, labels)
    np.testing.assert_allclose(net[0].weight.data, first - 0.01 * dw, atol=1e-6)
    np.testing.assert_allclose(net[3].weight.data, last - 0.1 * dv, atol=1e-6)


def test_a_schedule_of_the_learning_rate(net, images, labels):
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    optimizer.schedule(lr=optim.schedule.cosine(0.1, 100))
    foveal.compile_step(net, nn.CrossEntropyLoss(), optimizer)(images, labels)
    assert optimizer.lr <= 0.1


def test_clipped_gradients(net, images, labels):
    before = net.state_dict()
    optimizer = optim.Momentum(net.parameters(), lr=1.0, clip_norm=1e-3)
    foveal.compile_step(net, nn.CrossEntropyLoss(), optimizer)(images, labels)
    moved = sum(((v - before[n]) ** 2).sum() for n, v in net.state_dict().items())
    assert moved**0.5 == pytest.approx(1e-3, rel=1e-2)


def test_accumulated_gradients(net, images, labels):
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1), accumulate=4)
    first, moved = net[3].bias.data.copy(), []
    for x, y in data.Loader(images, labels, batch_size=10):
        step(x, y)
        moved.append(not np.array_equal(net[3].bias.data, first))
    assert moved == [False, False, False, True]


def test_a_penalty_on_the_parameters(net, images, labels):
    ce = nn.CrossEntropyLoss()

    def penalised(out, y):
        return ce(out, y) + 1e-3 * sum((p**2).sum() for p in net.parameters())

    step = foveal.compile_step(net, penalised, optim.SGD(net.parameters(), lr=0.1))
    assert step(images, labels).loss > 0


def test_label_smoothing_and_class_weights():
    loss = nn.CrossEntropyLoss(weight=np.float32([1, 2, 1]), label_smoothing=0.1)
    assert loss(np.zeros((2, 3), "float32"), np.array([0, 1])) > 0


def test_a_loss_over_two_targets(images, labels):
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.a, self.b = nn.Linear(64, 16), nn.Linear(16, 3), nn.Linear(16, 1)

        def forward(self, x):
            h = ops.relu(self.body(x.reshape(x.shape[0], 64)))
            return self.a(h), self.b(h)

    heads = Heads()

    def loss(out, target):
        return nn.CrossEntropyLoss()(out[0], target[0]) + nn.MSELoss()(out[1], target[1])

    step = foveal.compile_step(heads, loss, optim.SGD(heads.parameters(), lr=0.01))
    assert np.isfinite(step(images, (labels, np.ones((40, 1), "float32"))).loss)


def test_knowledge_distillation(images):
    teacher, student = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    soft = nn.Softmax(dim=1)(teacher(images) / 2.0)

    def distil(out, t):
        return -(t * ops.log_softmax(out / 2.0, axis=1)).sum(axis=1).mean()

    step = foveal.compile_step(student, distil, optim.SGD(student.parameters(), lr=0.1))
    assert np.isfinite(step(images, soft).loss)


def test_the_whole_loop_in_one_call(net, images, labels):
    history = train.train((images, labels), net, epochs=2, batch_size=10, validation=0.25, quiet=True)
    assert len(history.train["loss"]) == 2


def test_stopping_early(net, images, labels):
    stop = train.EarlyStopping(patience=1)
    options = {"epochs": 9, "optimizer": optim.SGD, "lr": 1e-12, "callbacks": [stop], "quiet": True}
    history = train.train((images, labels), net, batch_size=10, validation=0.25, **options)
    assert len(history.train["loss"]) == 2


def test_a_state_dict_in_a_file(net, tmp_path):
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    before = net[0].weight.data.copy()
    net[0].weight.data = np.zeros((4, 1, 3, 3))
    net.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert np.array_equal(net[0].weight.data, before)


def test_the_whole_model_in_a_file(net, images, tmp_path):
    net.save(tmp_path / "model.safetensors")
    again = foveal.load(tmp_path / "model.safetensors")
    assert np.array_equal(again.eval()(images[:2]), net.eval()(images[:2]))


def test_a_checkpoint_of_the_whole_training(net, images, labels, tmp_path):
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.Adam(net.parameters()))
    step(images, labels)
    save_file(train.state_dict(step), tmp_path / "training.safetensors")
    second = step(images, labels).loss
    train.load_state_dict(step, load_file(tmp_path / "training.safetensors"))
    assert step(images, labels).loss == second


def test_a_part_of_the_weights_of_another_model(net):
    other = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 7))
    state = {k: v for k, v in net.state_dict().items() if k.startswith("0.")}
    other.load_state_dict(state, strict=False)
    assert np.array_equal(other[0].weight.data, net[0].weight.data)


def test_weights_of_a_wrapped_model(net):
    with pytest.warns(FovealWarning, match="begin with 'module.', which was taken off"):
        net.load_state_dict({f"module.{k}": v for k, v in net.state_dict().items()})


def test_a_new_head_for_a_pretrained_body(images, labels):
    resnet = nn.models.build("resnet20", channels=1, size=(8, 8), classes=10)
    for p in resnet.parameters():
        p.requires_grad = False
    resnet.fc = nn.Linear(64, 2)
    step = foveal.compile_step(resnet, nn.CrossEntropyLoss(), optim.Momentum(resnet.fc.parameters(), lr=0.01))
    assert step(images[:8], labels[:8] % 2).output.shape == (8, 2)


def test_features_of_an_inner_layer(net, images):
    assert net.activations(images[:2], ["0"])["0"].shape == (2, 4, 6, 6)


def test_a_forward_hook(net, images):
    seen = []
    handle = net[0].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    net.eval()(images[:2])
    handle.remove()
    assert seen == [(2, 4, 6, 6)]


def test_an_operator_of_ones_own():
    class Cube(ops.Operator):
        """y = x ** 3"""

        name = "tutorial_cube"

        def numpy(self, x):
            return x**3

        def vjp(self, dy, y, x):
            return (dy * 3.0 * x * x,)

    cube = Cube()
    with pytest.warns(FovealWarning, match="has no kernel"):
        assert np.allclose(foveal.grad(lambda x: ops.sum(cube(x)))(np.float32([2.0])), 12)


def test_the_average_of_the_weights(net, images, labels):
    optimizer = optim.EMA(optim.SGD(net.parameters(), lr=0.1), decay=0.9)
    before = net[3].bias.data.copy()
    foveal.compile_step(net, nn.CrossEntropyLoss(), optimizer)(images, labels)
    after = net[3].bias.data.copy()
    with optimizer.averaged():
        average = net[3].bias.data.copy()
    assert np.array_equal(net[3].bias.data, after)
    assert (abs(average - before) + abs(average - after) <= abs(after - before) + 1e-6).all()


def test_where_the_time_goes_and_what_a_layer_costs(net):
    assert net.summary((1, 8, 8)).parameters == 475


def test_number_of_threads():
    before = foveal.get_threads()
    foveal.set_threads(1)
    assert foveal.get_threads() == 1
    foveal.set_threads(before)


def test_upsampling(images):
    assert nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)(images[:2]).shape == (2, 1, 16, 16)


def test_a_confusion_matrix(net, images, labels):
    counts = metrics.confusion_matrix(labels, net.eval()(images).argmax(1), 3)
    assert counts.sum(1).tolist() == np.bincount(labels, minlength=3).tolist()
