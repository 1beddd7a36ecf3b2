"""The attacks that search for the nearest adversarial image, in plain numpy; see numpy_attacks."""

import numpy as np
import numpy_attacks


def outputs(net, x, view):
    """What an attack takes for scores (N, d) at rows x (N, n), and its Jacobian (N, d, n)."""
    h = np.tanh(x @ net.w1.T + net.b1)
    z = h @ net.w2.T + net.b2
    by_x = np.einsum("dh,nh,hp->ndp", net.w2, 1 - h**2, net.w1)
    if net.head in ("ce", "linear") or (net.head == "mse" and view == "class"):
        return z, by_x
    if net.head == "mse":
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        return p, p[:, :, None] * (by_x - np.einsum("nd,ndp->np", p, by_x)[:, None])
    u, by_x = np.tanh(z), by_x / np.cosh(z)[:, :, None] ** 2
    if view == "units":
        return u, by_x
    scores = (u @ net.vectors.T - (net.vectors**2).sum(1) / 2) * 12 / net.vectors.shape[1]
    return scores, np.einsum("kd,ndp->nkp", net.vectors * 12 / net.vectors.shape[1], by_x)


def deepfool(net, x, original, view, candidates, overshoot, clip, max_steps):
    """Follow cleverhans v2.1.0 (attacks_tf.py, deepfool_attack) on rows x (N, n).

    Returns x + r in the box before every step, and a list of what is returned after each number
    of steps with whether the highest output is another one by then.
    """
    r, iterates, results = np.zeros_like(x), [], []
    a = numpy_attacks._box(x, clip)
    current = outputs(net, a, view)[0].argmax(1)
    for _ in range(max_steps + 1):
        results.append((numpy_attacks._box(x + (1 + overshoot) * r, clip), current != original))
        if (current != original).all() or len(results) > max_steps:
            break
        iterates.append(a)
        values, jacobian = outputs(net, a, view)
        for row in range(len(x)):
            if current[row] != original[row]:
                continue
            top = np.argsort(-values[row], kind="stable")[:candidates]
            nearest, w = np.inf, None
            for k in top[1:]:
                w_k = jacobian[row, k] - jacobian[row, top[0]]
                f_k = values[row, k] - values[row, top[0]]
                perturbation = (abs(f_k) + 0.00001) / np.linalg.norm(w_k)
                if perturbation < nearest:
                    nearest, w = perturbation, w_k
            r[row] += nearest * w / np.linalg.norm(w)
        a = numpy_attacks._box(x + r, clip)
        current = outputs(net, a, view)[0].argmax(1)
    return iterates, results
